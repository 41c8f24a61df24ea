//! What limits would have cost, and when they would have been too low: every policy over recorded use, knowing the
//! past only, side by side.
//!
//! Twill's row is the policy of [`crate::limits`] as agents run it. The others are the published methods
//! ([`baseline`]), without the floors that their deployments add, and without a cap; Twill is bounded by the request,
//! as the spec's default is. [`usage`] replays services, [`batch`] replays runs of batch tasks. How each figure is
//! counted stands in [`score`].

pub mod baseline;
pub mod batch;
pub mod score;
pub mod usage;

/// The policies, in the order they are shown.
pub const POLICIES: [&str; 7] = [
    "request",
    "vpa_p90",
    "vpa_p99",
    "krr",
    "autopilot",
    "twill",
    "oracle_24h",
];
