//! Errors as a person sees them.

use proptest::prelude::*;
use tw_model::Code;
use tw_spec::{Frame, RenderOptions, SpecError, render_error, render_errors};

fn error() -> SpecError {
    SpecError {
        code: Code::SpecWrongType,
        file: "shared/base.py".to_owned(),
        line: Some(12),
        column: Some(18),
        end_line: Some(12),
        end_column: Some(25),
        message: "replicas: expected a whole number, found the text \"three\"".to_owned(),
        hint: Some("write 3".to_owned()),
        source_line: Some("        replicas=\"three\",".to_owned()),
        trace: vec![
            Frame {
                file: "config.tw".to_owned(),
                line: 4,
                column: 1,
                function: "<module>".to_owned(),
                source_line: Some("export(service())".to_owned()),
            },
            Frame {
                file: "shared/base.py".to_owned(),
                line: 12,
                column: 18,
                function: "service".to_owned(),
                source_line: None,
            },
        ],
    }
}

#[test]
fn the_place_is_marked_and_the_calls_are_listed() {
    let expected = r#"error[spec.wrong_type]: replicas: expected a whole number, found the text "three"
  --> shared/base.py:12:18
   |
12 |         replicas="three",
   |                  ^^^^^^^
   = called from config.tw:4:1 in <module>
         export(service())
   = help: write 3
"#;
    assert_eq!(render_error(&error(), RenderOptions::default()), expected);
}

#[test]
fn errors_of_a_whole_file_have_no_line() {
    let error = SpecError {
        line: None,
        column: None,
        source_line: None,
        trace: Vec::new(),
        hint: None,
        ..error()
    };
    let shown = render_errors(&[error.clone(), error], RenderOptions::default());
    let one = "error[spec.wrong_type]: replicas: expected a whole number, found the text \"three\"\n --> shared/base.py\n";
    assert_eq!(shown, format!("{one}\n{one}"));
}

/// Takes the escape sequences out of a text.
fn without_color(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        plain + part.split_once('m').map_or("", |(_, rest)| rest)
    })
}

proptest! {
    #[test]
    fn any_error_can_be_shown_and_colour_changes_no_text(
        line in proptest::option::of(0u32..2000),
        column in proptest::option::of(0u32..300),
        end_line in proptest::option::of(0u32..2000),
        end_column in proptest::option::of(0u32..300),
        source in proptest::option::of("[^\\x1b\\r\\n]{0,200}"),
        message in "[ -~äß€😀]{0,80}",
        hostile in "\\PC{0,20}[\\x00-\\x1f\\x7f]{0,3}\\PC{0,20}",
    ) {
        let error = SpecError { line, column, end_line, end_column, source_line: source, message: message.clone(), ..error() };
        let plain = render_error(&error, RenderOptions::default());
        let colored = render_error(&error, RenderOptions { color: true });
        prop_assert!(plain.contains(&message));
        let error = SpecError { message: hostile, ..error };
        let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        prop_assert!(!render_error(&error, RenderOptions::default()).contains(control));
        prop_assert!(plain.ends_with('\n'));
        prop_assert_eq!(without_color(&colored), plain);
    }
}
