//! Plans as they were computed lately, for those who look at them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tw_scheduler::Plan;

/// How many plans are kept; the rows of older ones are, their details are not.
const PLANS_MAX: usize = 64;

/// Plans by their digests. They are not stored: each can be computed again.
#[derive(Default)]
pub(crate) struct Shelf(Mutex<VecDeque<Arc<Plan>>>);

impl Shelf {
    /// Keeps a plan as it may be shown.
    pub(crate) fn put(&self, plan: Plan) -> Arc<Plan> {
        let plan = Arc::new(plan.masked());
        let mut plans = self.0.lock().expect("no holder panics");
        plans.retain(|known| known.digest != plan.digest);
        plans.push_back(Arc::clone(&plan));
        if plans.len() > PLANS_MAX {
            plans.pop_front();
        }
        plan
    }

    pub(crate) fn find(&self, digest: &str) -> Option<Arc<Plan>> {
        let plans = self.0.lock().expect("no holder panics");
        plans.iter().find(|plan| plan.digest == digest).cloned()
    }
}
