//! What suggestions come to, over the tasks of a job and over all jobs.

use tw_model::{Bytes, Cores, PriceHole, Prices};
use tw_scheduler::limits::LimitSet;
use tw_scheduler::recommend::{Advice, Suggestion};

use crate::text::{BOLD, count};

/// How much more and how much less all tasks would request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    jobs: usize,
    with_more: usize,
    with_less: usize,
    unknown: usize,
    more: Amounts,
    less: Amounts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amounts {
    millicores: u64,
    bytes: u64,
}

impl Totals {
    /// Adds up jobs: what a task of it requests, how many tasks it has, and what is suggested.
    pub(super) fn of(
        jobs: impl IntoIterator<Item = (LimitSet, u64, Option<Suggestion>)>,
    ) -> Totals {
        let mut totals = Totals::default();
        for (request, tasks, suggestion) in jobs {
            totals.jobs += 1;
            let Some(found) = suggestion else {
                totals.unknown += 1;
                continue;
            };
            let (more, less) = (totals.more, totals.less);
            let cpu = millicores(found.cpu);
            let memory = bytes(found.memory);
            totals.more.millicores += cpu.map_or(0, |to| to.saturating_sub(request.cpu.0)) * tasks;
            totals.less.millicores += cpu.map_or(0, |to| request.cpu.0.saturating_sub(to)) * tasks;
            totals.more.bytes += memory.map_or(0, |to| to.saturating_sub(request.memory.0)) * tasks;
            totals.less.bytes += memory.map_or(0, |to| request.memory.0.saturating_sub(to)) * tasks;
            totals.with_more += usize::from(totals.more != more);
            totals.with_less += usize::from(totals.less != less);
        }
        totals
    }

    /// `needs 0.5 cores more`, and what that costs in a month; none if nothing needs more.
    pub(super) fn more(&self, prices: Option<Prices>) -> Result<Option<String>, PriceHole> {
        let text = self.more.text(prices, " more")?;
        Ok(text.map(|amounts| format!("needs {amounts}")))
    }

    /// `saves 2 cores and 6 GiB`, and what that costs in a month; none if nothing is saved.
    pub(super) fn less(&self, prices: Option<Prices>) -> Result<Option<String>, PriceHole> {
        let text = self.less.text(prices, "")?;
        Ok(text.map(|amounts| format!("saves {amounts}")))
    }

    /// A line for all jobs together.
    pub(super) fn text(&self, prices: Option<Prices>) -> Result<String, PriceHole> {
        let mut said = vec![format!("{BOLD}{}{BOLD:#}", count(self.jobs, "job"))];
        if let Some(more) = self.more(prices)? {
            said.push(format!("{} short: {more}", self.with_more));
        }
        if let Some(less) = self.less(prices)? {
            said.push(format!("{} too large: {less}", self.with_less));
        }
        if self.unknown > 0 {
            said.push(format!("{} without a suggestion yet", self.unknown));
        }
        if said.len() == 1 {
            said.push("all fit".to_owned());
        }
        Ok(said.join("; "))
    }
}

impl Amounts {
    fn text(self, prices: Option<Prices>, comparison: &str) -> Result<Option<String>, PriceHole> {
        let (cpu, memory) = (Cores(self.millicores), Bytes(self.bytes));
        let amounts = match (cpu, memory) {
            (Cores::ZERO, Bytes::ZERO) => return Ok(None),
            (Cores::ZERO, memory) => memory.to_string(),
            (cpu, Bytes::ZERO) => cores(cpu),
            (cpu, memory) => format!("{} and {memory}", cores(cpu)),
        };
        let money = match prices {
            Some(prices) => {
                let month = prices.month(cpu.0 as i64, memory.0 as i64, 0)?;
                format!(", {month:.2} a month")
            }
            None => String::new(),
        };
        Ok(Some(format!("{amounts}{comparison}{money}")))
    }
}

fn cores(cpu: Cores) -> String {
    match cpu {
        Cores(1000) => "1 core".to_owned(),
        cpu => format!("{cpu} cores"),
    }
}

fn millicores(advice: Advice<Cores>) -> Option<u64> {
    advice.suggested().map(|cores| cores.0)
}

fn bytes(advice: Advice<Bytes>) -> Option<u64> {
    advice.suggested().map(|bytes| bytes.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(jobs: &[(u64, Option<Suggestion>)]) -> String {
        let request = LimitSet {
            cpu: Cores(1000),
            memory: Bytes::gib(2),
        };
        let totals = Totals::of(jobs.iter().map(|(tasks, found)| (request, *tasks, *found)));
        let text = totals.text(None).expect("there are no prices");
        anstream::adapter::strip_str(&text).to_string()
    }

    fn suggested(cpu: Advice<Cores>, memory: Advice<Bytes>) -> Option<Suggestion> {
        Some(Suggestion { cpu, memory })
    }

    #[test]
    fn jobs_are_added_up_by_their_tasks() {
        let more = suggested(Advice::More(Cores(1500)), Advice::Less(Bytes::gib(1)));
        let less = suggested(Advice::Less(Cores(250)), Advice::Keep);
        let fits = suggested(Advice::Keep, Advice::Keep);
        assert_eq!(
            said(&[(2, more), (3, less), (1, fits), (4, None)]),
            "4 jobs; 1 short: needs 1 core more; 2 too large: saves 2.25 cores and 2 GiB; \
             1 without a suggestion yet"
        );
        assert_eq!(said(&[(1, fits), (7, fits)]), "2 jobs; all fit");
    }
}
