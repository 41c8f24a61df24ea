//! What a task may use while it starts.

use tw_model::{Cores, Millis};

use super::Horizon;

/// A start is over after this part of the window: five minutes of a week.
const STARTS_A_WINDOW: u64 = 2016;

/// The CPU limit of a task of this age: at least its request while it starts.
///
/// Compilers of runtimes, caches and imports use CPU once that the rest of the task's life does not show. The request
/// is what the author gave it and what its machine has set aside, so the boost takes from nobody.
pub fn cpu_limit(learned: Cores, request: Cores, age: Millis, horizon: Horizon) -> Cores {
    let start = Millis(horizon.window().0 / STARTS_A_WINDOW);
    if age < start {
        learned.max(request)
    } else {
        learned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starting_task_has_its_request() {
        let limit = |age| cpu_limit(Cores(100), Cores(1000), age, Horizon::default());
        assert_eq!(limit(Millis::minutes(4)), Cores(1000));
        assert_eq!(limit(Millis::minutes(5)), Cores(100));
    }
}
