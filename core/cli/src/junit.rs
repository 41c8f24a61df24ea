//! Results as JUnit's XML, which CI systems read.

use std::path::Path;

use anyhow::Context as _;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// Writes one report to `path`.
pub(crate) fn write(path: &Path, name: &str, suites: Vec<TestSuite>) -> anyhow::Result<()> {
    let mut report = Report::new(name);
    report.add_test_suites(suites);
    let text = report.to_string()?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A case of a class of cases: what CI shows as `CLASS.NAME`.
pub(crate) fn case(class: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

pub(crate) fn success() -> TestCaseStatus {
    TestCaseStatus::success()
}

/// A failure; `details` is what a person reads.
pub(crate) fn failure(code: &str, message: &str, details: String) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status
        .set_type(code)
        .set_message(message)
        .set_description(details);
    status
}

pub(crate) fn skipped(reason: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(reason);
    status
}
