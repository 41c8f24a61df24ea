//! What must hold after every step, after every recovery, and in the end.

mod budget;
mod end;
mod rows;
mod steady;
mod stops;
mod store;

pub(super) use budget::{Disturbed, budget, disturbed, makes_way, pauses};
pub(super) use end::converged;
pub(super) use rows::{Changed, promises_of_room, stopping, written};
pub(super) use steady::{Pace, has_room, on_unsteady, steadier};
pub(super) use stops::{StopMeter, drained, on_time};
pub(super) use store::{fold, index, promises, promises_of, settled, versions};
