//! Places where a value may be set. What they do is found out by evaluation, so a guess does no harm here.

use tree_sitter::Node;
use tw_model::Location;

use super::Wanted;
use super::names::Names;
use super::number::{self, Constant};
use super::syntax::{Edit, Syntax};
use crate::Provenance;

/// A change of one file that might do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) file: String,
    /// Where the change is, from the beginning of the file.
    pub(super) start: usize,
    pub(super) edits: Vec<Edit>,
    /// What evaluation cannot tell of it.
    pub(super) caution: Option<String>,
}

/// The value that is to be another one: as it is, and as it shall be.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) current: Wanted,
    pub(super) wanted: Wanted,
}

impl Target {
    fn scale(&self) -> f64 {
        self.wanted.number() / self.current.number()
    }
}

/// A parsed file and its path.
pub(super) struct File {
    pub(super) path: String,
    pub(super) syntax: Syntax,
}

/// The files that a job's values come from.
pub(super) trait Files {
    fn file(&self, path: &str) -> Option<&File>;
}

/// The numbers that the job's value was made of, as far as its trail leads: those that are equal to it, then those that
/// it may be a multiple of.
pub(super) fn numbers(
    files: &dyn Files,
    provenance: &Provenance,
    target: Target,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    for place in value_places(provenance, target.wanted.path()) {
        let Some((file, node)) = node_at(files, provenance, &place) else {
            continue;
        };
        let names = Names::of(&file.syntax);
        let mut constants = Vec::new();
        number::constants(&file.syntax, &names, scope_of(node), &mut constants);
        for constant in constants {
            for wanted in values(constant, target) {
                let candidate =
                    number_candidate(file, &names, constant, target, wanted, Some(node));
                add(&mut found, candidate);
            }
        }
    }
    found
}

/// The numbers of a file that are equal to the value, wherever they stand.
pub(super) fn equal_numbers(file: &File, target: Target) -> Vec<Candidate> {
    let names = Names::of(&file.syntax);
    let mut constants = Vec::new();
    number::constants(&file.syntax, &names, file.syntax.root(), &mut constants);
    let equal = constants
        .into_iter()
        .filter(|constant| constant.value == target.current.number());
    let wanted = target.wanted.number();
    equal
        .filter_map(|constant| number_candidate(file, &names, constant, target, wanted, None))
        .collect()
}

/// Sets the value where it is used, in place of a name: `memory=SMALL` becomes `memory=704 * MiB`. With `any`, in place
/// of any expression.
pub(super) fn uses(
    files: &dyn Files,
    provenance: &Provenance,
    target: Target,
    any: bool,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    let path = target.wanted.path();
    if provenance.written(path).is_none() {
        return found;
    }
    for place in value_places(provenance, path) {
        let Some((file, node)) = node_at(files, provenance, &place) else {
            continue;
        };
        let is_expression = is_name(node) || any && is_computed(node);
        if is_expression && !is_parameter(&file.syntax, node) && is_argument(node) {
            let names = Names::of(&file.syntax);
            let amount = target.wanted.amount();
            let (text, mut edits) =
                number::fresh(&file.syntax, &names, target.wanted.number(), amount);
            edits.push(Edit::replace(node.byte_range(), text));
            add(&mut found, Some(candidate(file, node, edits, None)));
        }
    }
    found
}

/// Sets the value of this job alone where its resources are handed over by a name: `resources=SMALL` becomes
/// `resources=SMALL.replace(memory=704 * MiB)`, also where a helper is handed them.
pub(super) fn narrowed(
    files: &dyn Files,
    provenance: &Provenance,
    target: Target,
) -> Option<Candidate> {
    let mut handed_as = "resources";
    let mut within: Option<&str> = None;
    for place in provenance.calls("") {
        let file = files.file(&place.file)?;
        let start = file.syntax.offset(place.line, place.column)?;
        let call = file.syntax.call_at(start, |callee| match within {
            Some(function) => callee == function,
            None => matches!(callee, "Job" | "replace"),
        })?;
        let value = file.syntax.argument(call, handed_as)?;
        if !is_name(value) {
            return None;
        }
        if !is_parameter(&file.syntax, value) {
            return Some(narrowed_at(file, value, target));
        }
        handed_as = file.syntax.of(value);
        within = Some(&place.function);
    }
    None
}

fn narrowed_at(file: &File, value: Node<'_>, target: Target) -> Candidate {
    let names = Names::of(&file.syntax);
    let (field, amount) = (target.wanted.keyword(), target.wanted.amount());
    let (text, mut edits) = number::fresh(&file.syntax, &names, target.wanted.number(), amount);
    let text = format!(".replace({field}={text})");
    edits.push(Edit::insert(value.end_byte(), text));
    candidate(file, value, edits, None)
}

/// Sets the value by an argument that is not given yet: of the helper whose default it is, or of the spec's classes.
pub(super) fn insertions(
    files: &dyn Files,
    provenance: &Provenance,
    target: Target,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    for place in provenance.references(target.wanted.path()) {
        if let Some((file, node)) = node_at(files, provenance, place)
            && let Some((function, parameter)) = default_of(&file.syntax, node)
        {
            for call in calls_of(files, provenance, target.wanted.path(), function) {
                add(&mut found, argument(call, parameter, target));
            }
        }
    }
    if provenance.written(target.wanted.path()).is_none() {
        add(&mut found, class_argument(files, provenance, target));
    }
    found
}

/// Sets the value at the call in the spec that leads to the job, by `.replace(resources=…)`.
pub(super) fn overrides(
    files: &dyn Files,
    provenance: &Provenance,
    resources: &[(&str, Wanted)],
    spec: &str,
) -> Option<Candidate> {
    let calls = provenance.calls("");
    let outermost = calls.iter().rposition(|call| call.file == spec)?;
    let function = &calls.get(outermost.checked_sub(1)?)?.function;
    let place = &calls[outermost];
    let file = files.file(&place.file)?;
    let start = file.syntax.offset(place.line, place.column)?;
    let call = file.syntax.call_at(start, |callee| callee == function)?;
    let names = Names::of(&file.syntax);
    let mut wanted = vec!["Resources"];
    wanted.extend(resources.iter().filter_map(|(_, value)| unit_name(*value)));
    wanted.sort_unstable();
    wanted.dedup();
    let (written, mut edits) = names.write(&file.syntax, &wanted);
    let here = |name: &str| {
        let index = wanted.iter().position(|known| *known == name);
        index.map_or(name.to_owned(), |index| written[index].clone())
    };
    let fields: Vec<String> = resources
        .iter()
        .map(|(field, value)| format!("{field}={}", spelled(*value, here)))
        .collect();
    let text = format!(
        ".replace(resources={}({}))",
        here("Resources"),
        fields.join(", ")
    );
    edits.push(Edit::insert(call.end_byte(), text));
    Some(candidate(file, call, edits, None))
}

fn unit_name(value: Wanted) -> Option<&'static str> {
    match value {
        Wanted::Cpu(_) => None,
        Wanted::Memory(bytes) => number::unit_of(bytes.0 as f64).map(|(name, _)| name),
    }
}

fn spelled(value: Wanted, here: impl Fn(&str) -> String) -> String {
    match (value, number::unit_of(value.number())) {
        (Wanted::Memory(_), Some((name, size))) => {
            format!("{} * {}", value.number() / size, here(name))
        }
        _ => value.number().to_string(),
    }
}

/// Where the value is written, what it refers to, nearest first.
fn value_places(provenance: &Provenance, path: &str) -> Vec<Location> {
    let mut places: Vec<Location> = provenance.written(path).into_iter().cloned().collect();
    places.extend(provenance.references(path).cloned());
    places
}

fn node_at<'f>(
    files: &'f dyn Files,
    provenance: &Provenance,
    place: &Location,
) -> Option<(&'f File, Node<'f>)> {
    let file = files.file(&place.file)?;
    let start = file.syntax.offset(place.line, place.column)?;
    let (line, column) = provenance.end_of(place)?;
    let end = file.syntax.offset(line, column)?;
    Some((file, file.syntax.node(start..end)?))
}

/// What of a node says something about the value: of a loop what it goes through, not what it does.
fn scope_of(node: Node<'_>) -> Node<'_> {
    match node.kind() {
        "for_statement" | "assignment" | "augmented_assignment" => {
            node.child_by_field_name("right").unwrap_or(node)
        }
        _ => node,
    }
}

/// What a constant may have to become for the value to be another one: the same, as many times less or more if it is a
/// factor, or less or more by as much if it is a part of a sum.
fn values(constant: Constant<'_>, target: Target) -> Vec<f64> {
    let (value, wanted) = (constant.value, target.wanted.number());
    let current = target.current.number();
    if value == current {
        return vec![wanted];
    }
    if value <= 0.0 || is_unit(value) {
        return Vec::new();
    }
    let amount = target.wanted.amount();
    [value * target.scale(), value + (wanted - current)]
        .into_iter()
        .filter(|value| *value > 0.0)
        .map(|value| number::rounded_up(value, amount))
        .collect()
}

fn number_candidate(
    file: &File,
    names: &Names<'_>,
    constant: Constant<'_>,
    target: Target,
    wanted: f64,
    within: Option<Node<'_>>,
) -> Option<Candidate> {
    let is_equal = constant.value == target.current.number();
    let ratio = target.current.number() / constant.value;
    if constant.value <= 0.0 {
        return None;
    }
    let amount = target.wanted.amount();
    let edits = number::respell(&file.syntax, names, constant, wanted, amount)?;
    let caution = caution_at(&file.syntax, constant.node, within).or_else(|| {
        let is_computed = !is_equal && !is_unit(ratio);
        is_computed.then(|| "the value is computed from it and something else".to_owned())
    });
    Some(candidate(file, constant.node, edits, caution))
}

/// Whether a value is so many times a number because that counts units: MiB, millicores, percent.
fn is_unit(ratio: f64) -> bool {
    let decimal = ratio.log10();
    let binary = ratio.log2() / 10.0;
    [decimal, binary]
        .iter()
        .any(|power| (power - power.round()).abs() < 1e-9)
}

/// What makes a place one that evaluating the tree as it is does not tell all about.
fn caution_at(syntax: &Syntax, node: Node<'_>, within: Option<Node<'_>>) -> Option<String> {
    let mut is_inside = true;
    let mut child = node;
    let mut at = node.parent();
    while let Some(here) = at {
        is_inside &= within.is_none_or(|root| root != child);
        match here.kind() {
            "conditional_expression" | "if_statement" | "match_statement" | "while_statement" => {
                return Some("it stands under a condition".to_owned());
            }
            "call" if is_inside && !passes_on(syntax.callee(here)) => {
                return Some(format!("it goes through {}(…)", syntax.callee(here)));
            }
            "function_definition" | "lambda" if within.is_none_or(|root| root != here) => {}
            _ => {}
        }
        child = here;
        at = here.parent();
    }
    None
}

/// Whether a call hands on what it is given: the library's classes, helpers called at the top of a spec, and tables.
fn passes_on(callee: &str) -> bool {
    callee.starts_with(|c: char| c.is_ascii_uppercase())
        || matches!(
            callee,
            "dict"
                | "list"
                | "tuple"
                | "export"
                | "replace"
                | "mix"
                | "items"
                | "append"
                | "extend"
        )
}

fn is_name(node: Node<'_>) -> bool {
    matches!(node.kind(), "identifier" | "attribute" | "subscript")
}

fn is_computed(node: Node<'_>) -> bool {
    matches!(
        node.kind(),
        "call"
            | "binary_operator"
            | "conditional_expression"
            | "boolean_operator"
            | "parenthesized_expression"
            | "unary_operator"
            | "await"
            | "string"
    )
}

/// Whether an expression is handed over, and not a statement or a default.
fn is_argument(node: Node<'_>) -> bool {
    node.parent().is_some_and(|parent| {
        matches!(
            parent.kind(),
            "keyword_argument" | "argument_list" | "pair" | "parenthesized_expression"
        )
    })
}

/// Whether a name is a parameter of the function that it stands in.
fn is_parameter(syntax: &Syntax, node: Node<'_>) -> bool {
    let name = syntax.of(node);
    let mut at = node.parent();
    while let Some(here) = at {
        if matches!(here.kind(), "function_definition" | "lambda")
            && let Some(parameters) = here.child_by_field_name("parameters")
        {
            let mut cursor = parameters.walk();
            return parameters.named_children(&mut cursor).any(|parameter| {
                let named = parameter.child_by_field_name("name").unwrap_or(parameter);
                let named = match named.kind() {
                    "typed_parameter" => named.named_child(0).unwrap_or(named),
                    _ => named,
                };
                syntax.of(named) == name
            });
        }
        at = here.parent();
    }
    false
}

/// The function and the parameter that an expression is the default of.
fn default_of<'t>(syntax: &'t Syntax, node: Node<'t>) -> Option<(&'t str, &'t str)> {
    let parameter = node.parent()?;
    if !matches!(
        parameter.kind(),
        "default_parameter" | "typed_default_parameter"
    ) {
        return None;
    }
    let name = parameter.child_by_field_name("name")?;
    let function = parameter.parent()?.parent()?;
    Some((
        syntax.of(function.child_by_field_name("name")?),
        syntax.of(name),
    ))
}

/// The calls of a function on the way to a value.
fn calls_of<'f>(
    files: &'f dyn Files,
    provenance: &Provenance,
    path: &str,
    function: &str,
) -> Vec<(&'f File, Node<'f>)> {
    let calls = provenance.calls(path).iter();
    let found = calls.filter_map(|call| {
        let file = files.file(&call.file)?;
        let start = file.syntax.offset(call.line, call.column)?;
        let node = file.syntax.call_at(start, |callee| callee == function)?;
        Some((file, node))
    });
    found.collect()
}

fn argument((file, call): (&File, Node<'_>), name: &str, target: Target) -> Option<Candidate> {
    let names = Names::of(&file.syntax);
    let amount = target.wanted.amount();
    let (text, mut edits) = number::fresh(&file.syntax, &names, target.wanted.number(), amount);
    edits.extend(file.syntax.add_argument(call, &format!("{name}={text}"))?);
    Some(candidate(file, call, edits, None))
}

/// Adds the field to the `Resources(…)` of the job, or that to its `Job(…)`.
fn class_argument(files: &dyn Files, provenance: &Provenance, target: Target) -> Option<Candidate> {
    let field = target.wanted.keyword();
    let (class, path) = match provenance.written("resources") {
        Some(_) => ("Resources", "resources"),
        None => ("Job", ""),
    };
    let place = provenance.calls(path).first()?;
    let file = files.file(&place.file)?;
    let start = file.syntax.offset(place.line, place.column)?;
    let call = file.syntax.call_at(start, |callee| {
        matches!(callee, "Job" | "Resources" | "replace")
    })?;
    if class == "Resources" {
        return argument((file, call), field, target);
    }
    let names = Names::of(&file.syntax);
    let mut wanted = vec!["Resources"];
    wanted.extend(unit_name(target.wanted));
    let (written, mut edits) = names.write(&file.syntax, &wanted);
    let value = spelled(target.wanted, |_| written[written.len() - 1].clone());
    let text = format!("resources={}({field}={value})", written[0]);
    edits.extend(file.syntax.add_argument(call, &text)?);
    Some(candidate(file, call, edits, None))
}

fn candidate(file: &File, node: Node<'_>, edits: Vec<Edit>, caution: Option<String>) -> Candidate {
    Candidate {
        file: file.path.clone(),
        start: node.start_byte(),
        edits,
        caution,
    }
}

fn add(found: &mut Vec<Candidate>, candidate: Option<Candidate>) {
    let is_new = |candidate: &Candidate| {
        found
            .iter()
            .all(|known| (&known.file, &known.edits) != (&candidate.file, &candidate.edits))
    };
    if let Some(candidate) = candidate.filter(is_new) {
        found.push(candidate);
    }
}
