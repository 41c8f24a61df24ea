//! `tw replay`: traces of both kinds, packed and plain, and what is said of broken ones.

use std::io::Write;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::Value;

use crate::cluster::tw_in;
use crate::ran::Ran;

const USAGE_HEADER: &str =
    "job,sample,cpu_millicores,memory_mib,cpu_request_millicores,memory_request_mib\n";
const BATCH_HEADER: &str = "wf,process,cpus,memory,peak_rss,%cpu,realtime,submit,rchar,status\n";

/// Nine days of two jobs, one with a nightly peak.
fn usage_trace() -> String {
    let mut text = USAGE_HEADER.to_owned();
    for sample in 0..9 * 288 {
        text += &format!("steady,{sample},200,512,1000,4096\n");
    }
    for sample in 0..9 * 288 {
        let (cpu, memory) = if sample % 288 < 6 {
            (900, 2000)
        } else {
            (30, 300)
        };
        text += &format!("nightly,{sample},{cpu},{memory},2000,8192\n");
    }
    text
}

fn replay(name: &str, content: &[u8], options: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), content).unwrap();
    let arguments = [&["replay", name], options].concat();
    tw_in(folder.path(), &arguments)
}

fn packed(text: &str) -> Vec<u8> {
    let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 1);
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

fn shown(ran: &Ran) -> String {
    format!("exit code {}\n{}", ran.code, ran.stderr.trim_end())
}

fn names(report: &Value) -> Vec<&str> {
    let policies = report["policies"].as_array().unwrap();
    policies
        .iter()
        .map(|policy| policy["name"].as_str().unwrap())
        .collect()
}

const POLICIES: [&str; 7] = [
    "request",
    "vpa_p90",
    "vpa_p99",
    "krr",
    "autopilot",
    "twill",
    "oracle_24h",
];

#[test]
fn services_are_replayed_under_every_policy() {
    let ran = replay("trace.csv.xz", &packed(&usage_trace()), &["--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["version"], 1);
    assert_eq!(names(&report), POLICIES);
    let request = &report["policies"][0];
    assert_eq!(request["cpu"]["footprint"], 1.0);
    assert_eq!(request["memory"]["ooms_per_day"], 0.0);
    for field in [
        "footprint",
        "slack",
        "exceeded_samples",
        "exceeded_load",
        "changes_per_day",
        "unchanged_days",
    ] {
        assert!(request["cpu"][field].is_f64(), "{field}");
    }
    for field in [
        "footprint",
        "slack",
        "ooms_per_day",
        "oom_free_days",
        "changes_per_day",
    ] {
        assert!(request["memory"][field].is_f64(), "{field}");
    }
    let plain = replay("trace.csv", usage_trace().as_bytes(), &["--json"]);
    assert_eq!(plain.stdout, ran.stdout, "packed and plain say the same");
    let table = replay("trace.csv", usage_trace().as_bytes(), &[]);
    assert!(
        table
            .stdout
            .starts_with("2 jobs, 4 active job-days after 7 days of learning")
    );
}

#[test]
fn batch_runs_are_replayed_under_every_policy() {
    let mut text = BATCH_HEADER.to_owned();
    for run in 0..20 {
        text += &format!(
            "mag,QC,1,8589934592,1073741824,99.0,3600000,{},10,COMPLETED\n",
            1000 + run
        );
    }
    text += "mag,QC,1,8589934592,-,99.0,3600000,2000,10,FAILED\n";
    let ran = replay("runs.csv", text.as_bytes(), &["--json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(names(&report), POLICIES);
    assert_eq!(
        (&report["runs"], &report["policies"][0]["waste_gib_hours"]),
        (&20.into(), &140.0.into())
    );
    assert_eq!(report["policies"][5]["failures_per_1000"], 0.0);
}

#[test]
fn broken_rows_are_named_by_line_and_can_be_left_out() {
    let mut text = usage_trace();
    text += "late,0,-5,100,1000,1000\nlate,0,many,100,1000,1000\nlate,0,1e300,100,1000,1000\nlate,0,NaN,1,1,1\n";
    text += "late,0,5\nlate,0,5,5,0,1000\nsteady,0,5,5,10,10\nlate,1,5,5,10,10\nlate,1,5,5,10,10\nlate,9999,5,5,10,10\n,1,5,5,10,10\n";
    let ran = replay("trace.csv", text.as_bytes(), &[]);
    assert_snapshot!(shown(&ran), @r"
    exit code 1
    error: the trace has 10 broken rows:
      line 5186: cpu_millicores: expected a number from 0 to 1000000000, found `-5`
      line 5187: cpu_millicores: expected a number from 0 to 1000000000, found `many`
      line 5188: cpu_millicores: expected a number from 0 to 1000000000, found `1e300`
      line 5189: cpu_millicores: expected a number from 0 to 1000000000, found `NaN`
      line 5190: expected 6 cells as in the header, found 3
      line 5191: the requests must be above 0
      line 5192: job steady had ended before: all rows of a job must follow each other
      line 5194: sample 1 of job late comes after sample 1: samples must rise
      line 5195: job late has no sample between 1 and 9999; gaps up to 8064 samples are filled
      line 5196: job: expected a name, found nothing
      hint: mend them, or leave them out with --skip-broken
    ");
    let ran = replay("trace.csv", text.as_bytes(), &["--skip-broken"]);
    assert_eq!(
        (ran.code, ran.stderr.trim()),
        (0, "10 broken rows left out")
    );
}

#[test]
fn what_is_no_trace_is_refused() {
    assert_snapshot!(shown(&replay("a.csv", b"a,b,c\n1,2,3\n", &[])), @r"
    exit code 1
    error: a.csv is no trace that can be replayed: its header is `a,b,c`
      hint: use of services has the columns job,sample,cpu_millicores,memory_mib,cpu_request_millicores,memory_request_mib; runs of batch tasks have wf,process,memory,peak_rss,realtime,submit,status
    ");
    assert_snapshot!(shown(&replay("a.csv", USAGE_HEADER.as_bytes(), &[])), @r"
    exit code 1
    error: no job-day of the trace counts
      hint: policies learn for 7 days; after that a whole day counts whose 95th percentile of use is at least 25 millicores or 64 MiB
    ");
    assert_snapshot!(shown(&replay("a.csv", BATCH_HEADER.as_bytes(), &[])), @r"
    exit code 1
    error: a.csv has no completed run with a measured peak
      hint: rows count whose status is COMPLETED and whose peak_rss is above 0
    ");
    let mut cut = packed(&usage_trace());
    cut.truncate(cut.len() / 2);
    assert_snapshot!(shown(&replay("a.csv.xz", &cut, &[])), @r"
    exit code 1
    error: reading a.csv.xz
      caused by: premature eof
    ");
    assert_snapshot!(shown(&tw_in(Path::new("/"), &["replay", "missing.csv"])), @r"
    exit code 1
    error: reading missing.csv
      caused by: No such file or directory (os error 2)
    ");
}
