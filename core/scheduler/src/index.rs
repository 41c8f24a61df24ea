//! Machines by what is free on them, so that the ones a task fills best are found without looking at the others.
//!
//! Machines of about one size share a grid of 128 by 128 cells: free CPU along one side, free memory along the other,
//! both as shares of that size. A task's request is a corner of the grid; what it fits on lies beyond, and what it
//! fills best lies nearest, where distance is the larger of the two leftovers. So a search walks squares of growing
//! distance around the corner, over all grids at once; two words of bits a square say which cells hold anybody.

use std::collections::BTreeMap;

use crate::fleet::{Request, Room, Slot};

/// How many cells a grid has along each side.
const CELLS: usize = 128;

/// How many machines one look takes in.
const LOOK: usize = 32;

/// No grid: the machine is not up.
const NOWHERE: u32 = u32::MAX;

/// Where a machine is in the index.
#[derive(Clone, Copy, Debug)]
struct Place {
    grid: u32,
    cell: u16,
    /// Its place among the machines of its cell.
    position: u32,
}

/// The machines of about one size.
#[derive(Clone, Debug)]
struct Grid {
    /// Cells per millicore and per byte.
    scale: (f64, f64),
    /// Which cells of each row, and of each column, hold a machine. A row is one amount of CPU.
    rows: [u128; CELLS],
    columns: [u128; CELLS],
    /// Which rows, and which columns, hold a machine at all.
    rows_used: u128,
    columns_used: u128,
    cells: Vec<Vec<Slot>>,
}

/// The free room of all machines that are up, in grids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_size: BTreeMap<(u64, u64), u32>,
    grids: Vec<Grid>,
    places: Vec<Place>,
}

impl Index {
    /// Notes what is free on a machine now. A new machine has the next slot.
    pub(crate) fn put(&mut self, slot: Slot, room: &Room) {
        if slot as usize == self.places.len() {
            self.places.push(Place {
                grid: NOWHERE,
                cell: 0,
                position: 0,
            });
        }
        let old = self.places[slot as usize];
        if !room.up {
            return self.take_out(slot, old);
        }
        let size = (rounded(room.cpu_whole), rounded(room.memory_whole));
        let known = self.grids.get(old.grid as usize);
        let grid = match known.filter(|grid| grid.scale == scale(size)) {
            Some(_) => old.grid,
            None => self.grid(size),
        };
        let cell = self.grids[grid as usize].cell(room.cpu, room.memory);
        if (old.grid, old.cell) == (grid, cell) {
            return;
        }
        self.take_out(slot, old);
        let position = self.grids[grid as usize].push(cell, slot);
        self.places[slot as usize] = Place {
            grid,
            cell,
            position,
        };
    }

    fn grid(&mut self, size: (u64, u64)) -> u32 {
        let grids = &mut self.grids;
        *self.by_size.entry(size).or_insert_with(|| {
            grids.push(Grid::new(size));
            grids.len() as u32 - 1
        })
    }

    fn take_out(&mut self, slot: Slot, old: Place) {
        if old.grid == NOWHERE {
            return;
        }
        let moved = self.grids[old.grid as usize].remove(old.cell, old.position);
        if let Some(moved) = moved {
            self.places[moved as usize].position = old.position;
        }
        self.places[slot as usize].grid = NOWHERE;
    }
}

/// A size rounded up to three binary digits, so that machines that hardly differ share a grid.
fn rounded(whole: f64) -> u64 {
    let whole = (whole as u64).max(1);
    let step = 1u64 << (64 - whole.leading_zeros()).saturating_sub(3);
    whole.div_ceil(step) * step
}

fn scale(size: (u64, u64)) -> (f64, f64) {
    (CELLS as f64 / size.0 as f64, CELLS as f64 / size.1 as f64)
}

impl Grid {
    fn new(size: (u64, u64)) -> Grid {
        Grid {
            scale: scale(size),
            rows: [0; CELLS],
            columns: [0; CELLS],
            rows_used: 0,
            columns_used: 0,
            cells: vec![Vec::new(); CELLS * CELLS],
        }
    }

    /// The row and column of an amount of CPU and memory. Never lower for more.
    fn corner(&self, cpu: i64, memory: i64) -> (usize, usize) {
        let at = |amount: i64, scale: f64| ((amount.max(0) as f64 * scale) as usize).min(CELLS - 1);
        (at(cpu, self.scale.0), at(memory, self.scale.1))
    }

    /// Whether an empty machine of this size would have room.
    fn may_hold(&self, cpu: i64, memory: i64) -> bool {
        let most = CELLS as f64;
        cpu as f64 * self.scale.0 <= most && memory as f64 * self.scale.1 <= most
    }

    fn cell(&self, cpu: i64, memory: i64) -> u16 {
        let (row, column) = self.corner(cpu, memory);
        (row * CELLS + column) as u16
    }

    fn push(&mut self, cell: u16, slot: Slot) -> u32 {
        let machines = &mut self.cells[cell as usize];
        machines.push(slot);
        let (row, column) = (cell as usize / CELLS, cell as usize % CELLS);
        self.rows[row] |= 1 << column;
        self.columns[column] |= 1 << row;
        self.rows_used |= 1 << row;
        self.columns_used |= 1 << column;
        machines.len() as u32 - 1
    }

    /// Takes a machine out. Returns the one that has its position now.
    fn remove(&mut self, cell: u16, position: u32) -> Option<Slot> {
        let machines = &mut self.cells[cell as usize];
        machines.swap_remove(position as usize);
        if machines.is_empty() {
            let (row, column) = (cell as usize / CELLS, cell as usize % CELLS);
            self.rows[row] &= !(1 << column);
            self.columns[column] &= !(1 << row);
            if self.rows[row] == 0 {
                self.rows_used &= !(1 << row);
            }
            if self.columns[column] == 0 {
                self.columns_used &= !(1 << column);
            }
        }
        machines.get(position as usize).copied()
    }

    /// The nearest distance from a corner, from one on, at which a row or a column holds machines; [`CELLS`] if none
    /// does.
    fn next_distance(&self, (row, column): (usize, usize), from: usize) -> usize {
        let steps = |used: u128, start: usize| match start < CELLS {
            true => (used >> start).trailing_zeros() as usize,
            false => CELLS,
        };
        let rows = steps(self.rows_used, row + from);
        let columns = steps(self.columns_used, column + from);
        (from + rows.min(columns)).min(CELLS)
    }

    /// The cells at a distance from a corner that hold machines.
    fn shell(&self, (row, column): (usize, usize), distance: usize, mut found: impl FnMut(u16)) {
        let (far_row, far_column) = (row + distance, column + distance);
        if far_row < CELLS {
            let mut bits = self.rows[far_row] & span(column, far_column + 1);
            while bits != 0 {
                found((far_row * CELLS) as u16 + bits.trailing_zeros() as u16);
                bits &= bits - 1;
            }
        }
        if far_column < CELLS {
            let mut bits = self.columns[far_column] & span(row, far_row);
            while bits != 0 {
                found((bits.trailing_zeros() as usize * CELLS + far_column) as u16);
                bits &= bits - 1;
            }
        }
    }
}

/// The bits from one up to and without another.
fn span(from: usize, to: usize) -> u128 {
    let below = |end: usize| match end >= CELLS {
        true => u128::MAX,
        false => (1 << end) - 1,
    };
    below(to) & !below(from)
}

/// A walk over the machines that may have room for a request, those that it fills best first.
#[derive(Debug)]
pub(crate) struct Search {
    cpu: i64,
    memory: i64,
    /// The corner of each grid whose machines are large enough.
    corners: Vec<(u32, (usize, usize))>,
    /// The distance of the cells at hand, in cells.
    shell: usize,
    cells: Vec<(u32, u16)>,
    /// The cell at hand, and how many of its machines were seen.
    at: usize,
    seen: usize,
}

impl Search {
    pub(crate) fn new(request: &Request) -> Search {
        Search {
            cpu: request.cpu.0 as i64,
            memory: request.memory.0 as i64,
            corners: Vec::new(),
            shell: 0,
            cells: Vec::new(),
            at: 0,
            seen: usize::MAX,
        }
    }

    /// The share of a machine that those not yet seen leave unused, about, in cells; one cell more or less.
    pub(crate) fn distance(&self) -> usize {
        self.shell
    }

    /// The thousandths of a thousandth of a machine in a cell.
    pub(crate) const fn cell_width() -> i64 {
        1_000_000 / CELLS as i64
    }

    /// The next few machines; none once all have been seen.
    ///
    /// The index must stay as it is between two calls.
    pub(crate) fn next<'a>(&mut self, index: &'a Index) -> Option<&'a [Slot]> {
        loop {
            if self.seen == usize::MAX {
                self.find_corners(index);
                self.enter(index, 0)?;
            }
            let Some((grid, cell)) = self.cells.get(self.at) else {
                self.enter(index, self.shell + 1)?;
                continue;
            };
            let machines = &index.grids[*grid as usize].cells[*cell as usize];
            let from = self.seen;
            if from < machines.len() {
                let to = (from + LOOK).min(machines.len());
                self.seen = to;
                return Some(&machines[from..to]);
            }
            self.at += 1;
            self.seen = 0;
        }
    }

    fn find_corners(&mut self, index: &Index) {
        let grids = (0..).zip(&index.grids);
        let large = grids.filter(|(_, grid)| grid.may_hold(self.cpu, self.memory));
        let corners = large.map(|(number, grid)| (number, grid.corner(self.cpu, self.memory)));
        self.corners.extend(corners);
    }

    /// Goes to the next distance, from this one on, at which there are machines.
    fn enter(&mut self, index: &Index, from: usize) -> Option<()> {
        self.cells.clear();
        (self.at, self.seen) = (0, 0);
        self.shell = from;
        while self.cells.is_empty() {
            let nearest = self.corners.iter().map(|(number, corner)| {
                index.grids[*number as usize].next_distance(*corner, self.shell)
            });
            self.shell = nearest.min().unwrap_or(CELLS);
            if self.shell >= CELLS {
                return None;
            }
            for (number, corner) in &self.corners {
                let cells = &mut self.cells;
                let grid = &index.grids[*number as usize];
                grid.shell(*corner, self.shell, |cell| cells.push((*number, cell)));
            }
            self.shell += usize::from(self.cells.is_empty());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use tw_model::{Bytes, Cores};

    use super::*;

    fn room(cpu: i64, memory: i64, whole: (f64, f64), up: bool) -> Room {
        Room {
            cpu: cpu.min(whole.0 as i64),
            memory: memory.min(whole.1 as i64),
            up,
            cpu_whole: whole.0,
            memory_whole: whole.1,
            ..Room::default()
        }
    }

    proptest! {
        /// A search shows every machine that has room, each once, and none that is not up.
        #[test]
        fn a_search_misses_no_machine_with_room(
            rooms in prop::collection::vec((0i64..64_000, 0i64..1 << 38, 0usize..4, any::<bool>()), 1..60),
            changes in prop::collection::vec((0usize..60, 0i64..64_000, 0i64..1 << 38, any::<bool>()), 0..60),
            cpu in 0u64..64_000, memory in 0u64..1 << 38,
        ) {
            let wholes = [(64_000.0, 2.7e11), (16_000.0, 6.4e10), (63_000.0, 2.6e11), (1.0, 1.0)];
            let mut rooms: Vec<Room> = rooms
                .into_iter()
                .map(|(cpu, memory, whole, up)| room(cpu, memory, wholes[whole], up))
                .collect();
            let mut index = Index::default();
            rooms.iter().enumerate().for_each(|(slot, room)| index.put(slot as Slot, room));
            for (slot, cpu, memory, up) in changes {
                let slot = slot % rooms.len();
                let whole = (rooms[slot].cpu_whole, rooms[slot].memory_whole);
                rooms[slot] = room(cpu, memory, whole, up);
                index.put(slot as Slot, &rooms[slot]);
            }
            let request = Request { cpu: Cores(cpu), memory: Bytes(memory), ..Request::default() };
            let mut search = Search::new(&request);
            let mut seen = BTreeSet::new();
            while let Some(slots) = search.next(&index) {
                for slot in slots {
                    prop_assert!(seen.insert(*slot), "{} was shown twice", slot);
                    prop_assert!(rooms[*slot as usize].up);
                }
            }
            for (slot, room) in rooms.iter().enumerate() {
                let fits = room.up && room.cpu >= cpu as i64 && room.memory >= memory as i64;
                prop_assert!(!fits || seen.contains(&(slot as Slot)), "{} was missed", slot);
            }
        }
    }
}
