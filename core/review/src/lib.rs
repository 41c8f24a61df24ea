//! A change as a reviewer reads it.
//!
//! [`of_diff`] and [`of_plan`] make a [`Review`] of what was found: what is dangerous first, then one card for each
//! different change with all jobs that share it, then what the change reaches. [`terminal`], [`markdown`] and [`html`]
//! show the same review in three places. Whatever comes from a spec is kept apart from our own words, and each of
//! the three shows it so that it can neither steer the terminal nor become markup.

mod card;
mod diff;
mod html;
mod markdown;
mod plan;
mod review;
mod rows;
mod terminal;
mod words;

pub use diff::of_diff;
pub use html::html;
pub use markdown::{MARKDOWN_BYTES_MAX, markdown};
pub use plan::{PlanShown, of_plan};
pub use review::{Card, CardJob, Line, Mark, Part, Review, Row, Tone};
pub use rows::change_line;
pub use terminal::{effect_style, terminal};
pub use words::{count, value};
