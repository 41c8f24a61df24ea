//! Everything a sealed child may send, understood as the parent would.
//!
//! The first byte says how the rest is sent: as it is, or as the content of one frame of some kind, after the
//! question that an evaluation asks first.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tw_spec::{RenderOptions, Source, render_errors, replay};

/// A tree with a spec and a module.
fn tree() -> &'static (TempDir, Source) {
    static TREE: OnceLock<(TempDir, Source)> = OnceLock::new();
    TREE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str| {
            std::fs::write(folder.path().join(name), "from tw import Job\n\nJob(\n)\n")
                .expect("write")
        };
        write("config.tw");
        write("base.py");
        let source = Source::work_tree(folder.path()).expect("a tree");
        (folder, source)
    })
}

fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 1).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &[kind], content].concat()
}

fuzz_target!(|input: &[u8]| {
    let Some((how, content)) = input.split_first() else {
        return;
    };
    let questions = frame(b'Q', br#"{"ask":"module","path":"base"}"#);
    let said = match how % 5 {
        0 => content.to_vec(),
        1 => [questions, frame(b'J', content)].concat(),
        2 => [questions, frame(b'E', content)].concat(),
        3 => [questions, frame(b'F', content)].concat(),
        _ => [questions, frame(b'Q', content)].concat(),
    };
    let outcome = replay(&tree().1, "config.tw", &said);
    let shown = render_errors(&outcome.errors, RenderOptions::default());
    assert!(shown.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')));
    for error in &outcome.errors {
        assert!(["config.tw", "base.py"].contains(&error.file.as_str()));
    }
});
