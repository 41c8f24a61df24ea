//! Use against limits, drawn in the terminal.

use tw_api::UsageReply;
use tw_model::{Bytes, Cores};
use tw_scheduler::recommend::Suggestion;

use crate::text::{BOLD, CYAN, DIM, GREEN, YELLOW, painted};

const ROWS: usize = 8;

/// The columns of a chart, where the terminal has room for them.
pub(super) const COLUMNS: usize = 72;

/// What stands beside a chart: two spaces, and a label such as `│ suggested 1.5 GiB, request 704 MiB`.
const BESIDE: usize = 38;

/// The columns of a chart in a terminal of this width: no line is longer, but where it is very narrow.
pub(super) fn columns_in(width: usize) -> usize {
    width.saturating_sub(BESIDE).clamp(24, COLUMNS)
}

/// Eighths of a row.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What was used over time, and the limits beside it.
pub(super) struct Curve {
    pub(super) name: &'static str,
    /// The time from the first point to the end of the last.
    pub(super) span_ms: u64,
    /// From the start of the first point, and what was used from then on, at its highest.
    pub(super) points: Vec<(u64, u64)>,
    /// Where it is usually: what 95% of the samples stayed within; empty where only the highest is known.
    pub(super) usual: Vec<(u64, u64)>,
    pub(super) request: u64,
    pub(super) suggested: Option<u64>,
    pub(super) show: fn(u64) -> String,
}

impl Curve {
    /// The highest value that has to be seen.
    pub(super) fn top(&self) -> u64 {
        let used = self
            .points
            .iter()
            .map(|(_, value)| *value)
            .max()
            .unwrap_or(0);
        used.max(self.request)
            .max(self.suggested.unwrap_or(0))
            .max(1)
    }
}

/// The curves of CPU and memory; none without a history.
pub(super) fn curves(reply: &UsageReply, found: Option<&Suggestion>) -> Vec<Curve> {
    let Some(history) = &reply.history else {
        return Vec::new();
    };
    let (Some(first), Some(last)) = (history.points.first(), history.points.last()) else {
        return Vec::new();
    };
    let at = |point: &tw_api::UsagePoint| point.start.since(first.start).0;
    let points = |value: fn(&tw_api::UsagePoint) -> u64| {
        history
            .points
            .iter()
            .map(|point| (at(point), value(point)))
            .collect::<Vec<_>>()
    };
    let span_ms = (at(last) + last.span_ms).max(1);
    vec![
        Curve {
            name: "cpu",
            span_ms,
            points: points(|point| point.cpu_peak.0),
            usual: points(|point| point.cpu_p95.0),
            request: reply.cpu_request_millicores,
            suggested: found
                .and_then(|found| found.cpu.suggested())
                .map(|cores| cores.0),
            show: |millicores| Cores(millicores).to_string(),
        },
        Curve {
            name: "memory",
            span_ms,
            points: points(|point| point.memory_peak.0),
            usual: Vec::new(),
            request: reply.memory_request_bytes,
            suggested: found
                .and_then(|found| found.memory.suggested())
                .map(|bytes| bytes.0),
            show: |bytes| Bytes(bytes).to_string(),
        },
    ]
}

/// Draws a curve so many columns wide: a column is the highest use of its time, a line each the request and the
/// suggestion.
pub(super) fn lines(curve: &Curve, width: usize) -> Vec<String> {
    let top = curve.top() as f64;
    let columns = columns(&curve.points, curve.span_ms, width);
    let row_of =
        |value: u64| ROWS - 1 - ((value as f64 / top * ROWS as f64) as usize).min(ROWS - 1);
    let request_row = row_of(curve.request);
    let suggested_row = curve.suggested.map(row_of);
    let mut lines = vec![format!("{BOLD}{}{BOLD:#}", curve.name)];
    for row in 0..ROWS {
        let line = match row {
            row if suggested_row == Some(row) => Some('╌'),
            row if row == request_row => Some('─'),
            _ => None,
        };
        let below = (ROWS - 1 - row) as f64;
        let cells = columns.iter().map(|value| match value {
            None => line.unwrap_or(' '),
            Some(value) => {
                let eighths = ((*value as f64 / top * ROWS as f64 - below) * 8.0).ceil();
                match eighths.clamp(0.0, 8.0) as usize {
                    0 => line.unwrap_or(' '),
                    eighths => BLOCKS[eighths],
                }
            }
        });
        let cells: String = cells.collect();
        let mut labels = Vec::new();
        if row == request_row {
            labels.push(painted(
                YELLOW,
                format!("request {}", (curve.show)(curve.request)),
            ));
        }
        if let Some(suggested) = curve.suggested.filter(|_| suggested_row == Some(row)) {
            labels.push(painted(
                GREEN,
                format!("suggested {}", (curve.show)(suggested)),
            ));
        }
        let drawn = format!("{}│ {}", painted(CYAN, cells), labels.join(", "));
        lines.push(drawn.trim_end().to_owned());
    }
    let ago = super::long(tw_model::Millis(curve.span_ms));
    let axis = format!(
        "{ago} ago{:>1$}",
        "now",
        width.saturating_sub(ago.chars().count() + 4)
    );
    lines.push(painted(DIM, axis));
    lines
}

/// The highest value of each column's time; none where nothing was measured.
fn columns(points: &[(u64, u64)], span_ms: u64, width: usize) -> Vec<Option<u64>> {
    let mut columns = vec![None; width.min(points.len().max(1) * 4)];
    let count = columns.len() as u64;
    let ends = points.iter().skip(1).map(|(at, _)| *at).chain([span_ms]);
    let typical = span_ms / points.len().max(1) as u64;
    for ((start, value), end) in points.iter().zip(ends) {
        // A gap is longer than the points are apart.
        let end = end.min(start + 2 * typical.max(1));
        let first = start * count / span_ms;
        let last = (end * count).div_ceil(span_ms).clamp(first + 1, count);
        for column in &mut columns[first as usize..last as usize] {
            *column = Some(column.map_or(*value, |known: u64| known.max(*value)));
        }
    }
    let mut padded = vec![None; width - columns.len()];
    padded.extend(columns);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_below_its_request() {
        let hour = 3_600_000;
        let curve = Curve {
            name: "memory",
            span_ms: 96 * hour,
            points: (0..96)
                .filter(|at| !(40..50).contains(at))
                .map(|at| (at * hour, (100 + 60 * (at % 24 / 12) + at / 4) << 20))
                .collect(),
            usual: Vec::new(),
            request: 512 << 20,
            suggested: Some(256 << 20),
            show: |bytes| Bytes(bytes).to_string(),
        };
        let drawn = anstream::adapter::strip_str(&lines(&curve, COLUMNS).join("\n")).to_string();
        insta::assert_snapshot!(drawn);
        for width in [60, 80, 100, 200] {
            let drawn = lines(&curve, columns_in(width)).join("\n");
            let drawn = anstream::adapter::strip_str(&drawn).to_string();
            let widest = drawn.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest + 2 <= width), "{drawn}");
        }
    }
}
