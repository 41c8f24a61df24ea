//! Rows of a CSV trace.

use std::io::BufRead;

/// Where the wanted columns stand in a row.
pub(super) struct Columns {
    places: Vec<usize>,
    in_all: usize,
}

/// The cells of the wanted columns, in the order they were asked for.
pub(super) struct Row<'a> {
    cells: [&'a [u8]; CELLS_MAX],
}

/// More columns than any trace is asked for.
const CELLS_MAX: usize = 8;

/// Rows that could not be read.
#[derive(Default)]
pub(super) struct Broken {
    pub(super) count: usize,
    /// The first of them, with their line numbers.
    pub(super) first: Vec<(usize, String)>,
}

/// How many broken rows are told in full.
const BROKEN_TOLD: usize = 10;

/// A longer line is no row.
const LINE_BYTES_MAX: usize = 64 << 10;

impl Columns {
    /// Finds columns in a header, in whatever order; none if one is missing.
    pub(super) fn find(header: &str, wanted: &[&str]) -> Option<Columns> {
        let header = header.trim_start_matches('\u{feff}').trim_end();
        let names: Vec<&str> = header.split(',').map(str::trim).collect();
        let place = |name: &&str| names.iter().position(|found| found == name);
        let places: Option<Vec<usize>> = wanted.iter().map(place).collect();
        Some(Columns {
            places: places?,
            in_all: names.len(),
        })
    }

    fn row<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, String> {
        let mut row = Row {
            cells: [&[]; CELLS_MAX],
        };
        let mut found = 0;
        for (place, cell) in line.split(|byte| *byte == b',').enumerate() {
            found += 1;
            if let Some(wanted) = self.places.iter().position(|wanted| *wanted == place) {
                row.cells[wanted] = cell.trim_ascii();
            }
        }
        match found == self.in_all {
            true => Ok(row),
            false => Err(format!(
                "expected {} cells as in the header, found {found}",
                self.in_all
            )),
        }
    }
}

impl<'a> Row<'a> {
    pub(super) fn text(&self, column: usize) -> &'a [u8] {
        self.cells[column]
    }

    /// A number from 0 to `max`.
    pub(super) fn number(&self, column: usize, name: &str, max: f64) -> Result<f64, String> {
        let cell = self.cells[column];
        let number = parse(cell).filter(|number| (0.0..=max).contains(number));
        number.ok_or_else(|| {
            let cell: String = String::from_utf8_lossy(cell).chars().take(40).collect();
            format!("{name}: expected a number from 0 to {max}, found `{cell}`")
        })
    }
}

/// Reads the rows that follow the header. `take` refuses a row with a reason.
pub(super) fn each(
    mut lines: impl BufRead,
    columns: &Columns,
    mut take: impl FnMut(&Row<'_>) -> Result<(), String>,
) -> std::io::Result<Broken> {
    let mut broken = Broken::default();
    let mut line = Vec::new();
    // The header is line 1.
    for number in 2.. {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = line.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let taken = match text.len() <= LINE_BYTES_MAX {
            true => columns.row(text).and_then(|row| take(&row)),
            false => Err(format!("{} bytes long", text.len())),
        };
        if let Err(problem) = taken {
            broken.count += 1;
            if broken.first.len() < BROKEN_TOLD {
                broken.first.push((number, problem));
            }
        }
    }
    Ok(broken)
}

fn parse(cell: &[u8]) -> Option<f64> {
    // Nearly all cells are whole numbers.
    if !cell.is_empty() && cell.len() < 10 && cell.iter().all(u8::is_ascii_digit) {
        let add = |sum: u32, digit: &u8| sum * 10 + u32::from(digit - b'0');
        return Some(f64::from(cell.iter().fold(0, add)));
    }
    std::str::from_utf8(cell).ok()?.parse().ok()
}
