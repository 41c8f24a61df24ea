//! Numbers that a source spells out, such as `256 * MiB`, and how to spell another one in their place.

use tree_sitter::Node;

use super::names::{Names, UNITS};
use super::syntax::{Edit, Syntax};

/// A number may become this much larger for the sake of its author's unit: a sixteenth.
const ROUNDED_MAX: f64 = 1.0625;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    Cores,
    Bytes,
}

/// An expression of numbers and units alone.
#[derive(Clone, Copy)]
pub(super) struct Constant<'t> {
    pub(super) node: Node<'t>,
    pub(super) value: f64,
}

/// Lists the largest constants below a node.
pub(super) fn constants<'t>(
    syntax: &'t Syntax,
    names: &Names<'t>,
    node: Node<'t>,
    found: &mut Vec<Constant<'t>>,
) {
    match node.kind() {
        "string"
        | "comparison_operator"
        | "type"
        | "import_statement"
        | "import_from_statement"
        | "decorator"
        | "comment" => return,
        "parenthesized_expression" => {}
        _ => {
            if let Some(value) = value(syntax, names, node) {
                return found.push(Constant { node, value });
            }
        }
    }
    let mut cursor = node.walk();
    for (index, child) in node.children(&mut cursor).enumerate() {
        let field = node.field_name_for_child(index as u32);
        let is_left_out = matches!(
            (node.kind(), field),
            ("pair", Some("key"))
                | ("subscript", Some("subscript"))
                | ("keyword_argument", Some("name"))
                | ("assignment", Some("left"))
                | ("call", Some("function"))
        );
        if child.is_named() && !is_left_out {
            constants(syntax, names, child, found);
        }
    }
}

fn value(syntax: &Syntax, names: &Names<'_>, node: Node<'_>) -> Option<f64> {
    match node.kind() {
        "integer" | "float" => literal(syntax.of(node)),
        "identifier" | "attribute" => names.unit(syntax, node),
        "parenthesized_expression" => value(syntax, names, node.named_child(0)?),
        "binary_operator" => {
            let left = value(syntax, names, node.child_by_field_name("left")?)?;
            let right = value(syntax, names, node.child_by_field_name("right")?)?;
            let result = match syntax.of(node.child_by_field_name("operator")?) {
                "*" => left * right,
                "+" => left + right,
                "-" => left - right,
                "/" => left / right,
                "//" => (left / right).floor(),
                "<<" => left * right.exp2(),
                "**" => left.powf(right),
                _ => return None,
            };
            result.is_finite().then_some(result)
        }
        _ => None,
    }
}

fn literal(text: &str) -> Option<f64> {
    let plain = text.replace('_', "").to_ascii_lowercase();
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().map(|n| n as f64);
    match plain.get(..2) {
        Some("0x") => radix(&plain[2..], 16),
        Some("0o") => radix(&plain[2..], 8),
        Some("0b") => radix(&plain[2..], 2),
        _ => plain.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

/// A number that was computed, rounded up to one that reads well: whole MiB, where that is little more.
pub(super) fn rounded_up(number: f64, amount: Amount) -> f64 {
    const MIB: f64 = (1_u64 << 20) as f64;
    let whole = (number / MIB).ceil() * MIB;
    match amount == Amount::Bytes && whole <= number * ROUNDED_MAX {
        true => whole,
        false => number,
    }
}

/// The literals and units that a product consists of; none if it is anything else.
fn factors<'t>(syntax: &Syntax, node: Node<'t>) -> Option<Vec<Node<'t>>> {
    match node.kind() {
        "integer" | "float" | "identifier" | "attribute" => Some(vec![node]),
        "parenthesized_expression" => factors(syntax, node.named_child(0)?),
        "binary_operator" if syntax.of(node.child_by_field_name("operator")?) == "*" => {
            let mut left = factors(syntax, node.child_by_field_name("left")?)?;
            left.extend(factors(syntax, node.child_by_field_name("right")?)?);
            Some(left)
        }
        _ => None,
    }
}

fn is_literal(node: Node<'_>) -> bool {
    matches!(node.kind(), "integer" | "float")
}

/// Writes `wanted` in the place of a constant, in its author's words: the literal of a product is changed, its unit
/// stays if the number can be told in it. Rounds up where that reads better. None if nothing reads well.
pub(super) fn respell(
    syntax: &Syntax,
    names: &Names<'_>,
    constant: Constant<'_>,
    wanted: f64,
    amount: Amount,
) -> Option<Vec<Edit>> {
    let Some(parts) = factors(syntax, constant.node) else {
        return Some(fresh_at(syntax, names, constant.node, wanted, amount));
    };
    let coefficient = coefficient(syntax, &parts);
    let Some(coefficient) = coefficient else {
        return Some(fresh_at(syntax, names, constant.node, wanted, amount));
    };
    let was = literal(syntax.of(coefficient))?;
    if was == 0.0 {
        return Some(fresh_at(syntax, names, constant.node, wanted, amount));
    }
    let rest = constant.value / was;
    if let Some(text) = digits(syntax.of(coefficient), wanted / rest, amount, parts.len()) {
        return Some(vec![Edit::replace(coefficient.byte_range(), text)]);
    }
    in_smaller_unit(syntax, names, &parts, wanted).or_else(|| {
        (amount == Amount::Bytes).then(|| fresh_at(syntax, names, constant.node, wanted, amount))
    })
}

/// The literal of a product that counts: not one of those that make up a unit, if there is another.
fn coefficient<'t>(syntax: &Syntax, parts: &[Node<'t>]) -> Option<Node<'t>> {
    let literals = || parts.iter().copied().filter(|part| is_literal(*part));
    let counts = |part: &Node<'_>| !matches!(syntax.of(*part), "1024" | "1000" | "1_000");
    literals().find(counts).or_else(|| literals().next())
}

/// The digits of a literal that stood as `before`. None if the number does not read well in its unit.
fn digits(before: &str, wanted: f64, amount: Amount, factors: usize) -> Option<String> {
    let is_float = before.contains(['.', 'e', 'E']) && !before.starts_with("0x");
    let whole = wanted.round();
    if (wanted - whole).abs() < 1e-6 * wanted.abs().max(1.0) && whole >= 1.0 {
        let text = grouped(whole as u64, before.contains('_'));
        return Some(match before.ends_with(".0") {
            true => format!("{text}.0"),
            false => text,
        });
    }
    if is_float || (amount == Amount::Cores && factors == 1) {
        let places = match amount {
            Amount::Cores => 1000.0,
            Amount::Bytes => 100.0,
        };
        let up = (wanted * places - 1e-6).ceil() / places;
        if up <= wanted * ROUNDED_MAX {
            return Some(up.to_string());
        }
    }
    let up = wanted.ceil();
    (up <= wanted * ROUNDED_MAX).then(|| grouped(up as u64, before.contains('_')))
}

fn grouped(number: u64, with_underscores: bool) -> String {
    let digits = number.to_string();
    if !with_underscores {
        return digits;
    }
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// Exchanges the one unit of `N * GiB` for a smaller one in which the number is whole.
fn in_smaller_unit(
    syntax: &Syntax,
    names: &Names<'_>,
    parts: &[Node<'_>],
    wanted: f64,
) -> Option<Vec<Edit>> {
    let [one, other] = parts else { return None };
    let (number, unit) = match is_literal(*one) {
        true => (one, other),
        false => (other, one),
    };
    let size = names.unit(syntax, *unit)?;
    let (name, smaller) = UNITS
        .into_iter()
        .find(|(_, smaller)| *smaller < size && wanted % smaller == 0.0)?;
    let (written, mut edits) = unit_like(syntax, names, *unit, name);
    edits.push(Edit::replace(unit.byte_range(), written));
    let count = (wanted / smaller) as u64;
    edits.push(Edit::replace(number.byte_range(), count.to_string()));
    Some(edits)
}

/// The name of a unit, reached as its neighbour is.
fn unit_like(
    syntax: &Syntax,
    names: &Names<'_>,
    like: Node<'_>,
    name: &str,
) -> (String, Vec<Edit>) {
    match like.child_by_field_name("object") {
        Some(object) => (format!("{}.{name}", syntax.of(object)), Vec::new()),
        None => {
            let (mut written, edits) = names.write(syntax, &[name]);
            (written.remove(0), edits)
        }
    }
}

fn fresh_at(
    syntax: &Syntax,
    names: &Names<'_>,
    node: Node<'_>,
    wanted: f64,
    amount: Amount,
) -> Vec<Edit> {
    let (text, mut edits) = fresh(syntax, names, wanted, amount);
    edits.push(Edit::replace(node.byte_range(), text));
    edits
}

/// Writes a number as one would who had nothing to go by, and the imports that it needs.
pub(super) fn fresh(
    syntax: &Syntax,
    names: &Names<'_>,
    wanted: f64,
    amount: Amount,
) -> (String, Vec<Edit>) {
    if amount == Amount::Cores {
        return (wanted.to_string(), Vec::new());
    }
    match unit_of(wanted) {
        None => ((wanted as u64).to_string(), Vec::new()),
        Some((name, size)) => {
            let (written, edits) = names.write(syntax, &[name]);
            (format!("{} * {}", wanted / size, written[0]), edits)
        }
    }
}

/// The largest unit in which a number of bytes is whole.
pub(super) fn unit_of(bytes: f64) -> Option<(&'static str, f64)> {
    UNITS
        .into_iter()
        .find(|(_, size)| bytes >= *size && bytes % size == 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::syntax::apply;
    use super::*;

    const MIB: f64 = (1_u64 << 20) as f64;

    /// What becomes of the first constant of a text.
    fn respelled(text: &str, wanted: f64, amount: Amount) -> Option<String> {
        let syntax = Syntax::parse(text.to_owned()).expect("parses");
        let names = Names::of(&syntax);
        let mut found = Vec::new();
        constants(&syntax, &names, syntax.root(), &mut found);
        let edits = respell(&syntax, &names, found[0], wanted, amount)?;
        apply(text, &edits)
    }

    fn bytes(text: &str, mib: f64) -> String {
        respelled(text, mib * MIB, Amount::Bytes).expect("reads well")
    }

    #[test]
    fn a_size_stays_in_its_authors_unit() {
        assert_eq!(bytes("x = 256 * MiB", 704.0), "x = 704 * MiB");
        assert_eq!(bytes("x = MiB * 256", 704.0), "x = MiB * 704");
        assert_eq!(bytes("x = 4 * GiB", 2048.0), "x = 2 * GiB");
        assert_eq!(bytes("x = GiB", 2048.0), "from tw import GiB\nx = 2 * GiB");
        assert_eq!(
            bytes("x = 512 * 1024 * 1024", 704.0),
            "x = 704 * 1024 * 1024"
        );
        assert_eq!(
            bytes("x = 1024 * 1024 * 512", 704.0),
            "x = 1024 * 1024 * 704"
        );
        assert_eq!(bytes("x = 268_435_456", 512.0), "x = 536_870_912");
        assert_eq!(bytes("x = 1.5 * GiB", 1280.0), "x = 1.25 * GiB");
    }

    #[test]
    fn a_size_that_its_unit_cannot_tell_gets_a_smaller_one() {
        let text = "from tw import GiB, Job\nx = 4 * GiB";
        assert_eq!(
            bytes(text, 704.0),
            "from tw import GiB, Job, MiB\nx = 704 * MiB"
        );
        assert_eq!(
            bytes("import tw\nx = 4 * tw.GiB", 704.0),
            "import tw\nx = 704 * tw.MiB"
        );
        assert_eq!(
            bytes("x = 4 * GiB", 1000.0),
            "x = 1 * GiB",
            "rounded up by little"
        );
        let text = "from tw import (\n    GiB,\n    Job,\n)\nx = 4 * GiB";
        let wanted = "from tw import (\n    GiB,\n    Job,\n    MiB,\n)\nx = 704 * MiB";
        assert_eq!(bytes(text, 704.0), wanted);
    }

    #[test]
    fn cores_are_plain_numbers() {
        let cores = |text, wanted| respelled(text, wanted, Amount::Cores).expect("reads well");
        assert_eq!(cores("x = 2", 0.25), "x = 0.25");
        assert_eq!(cores("x = 0.5", 1.5), "x = 1.5");
        assert_eq!(cores("x = 4.0", 2.0), "x = 2.0");
    }

    #[test]
    fn what_is_no_number_is_left_alone() {
        let text = "f'{8 * MiB}', x[3], {8: 1}, y == 4";
        let syntax = Syntax::parse(text.to_owned()).expect("parses");
        let mut found = Vec::new();
        constants(&syntax, &Names::of(&syntax), syntax.root(), &mut found);
        let texts: Vec<&str> = found
            .iter()
            .map(|constant| syntax.of(constant.node))
            .collect();
        assert_eq!(texts, ["1"]);
    }
}
