//! Python expressions, laid out as ruff and black would leave them.

/// The width of a line.
const WIDTH: usize = 88;
const INDENT: usize = 4;

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Names, numbers, products and texts: never broken over lines.
    Atom(String),
    /// A text; written when the layout is made.
    Text(String),
    /// A call, a list or a dict.
    Group {
        open: String,
        close: &'static str,
        elements: Vec<Element>,
        trailing: Vec<String>,
    },
}

/// An element of a group, with the comments above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) comments: Vec<String>,
    pub(crate) key: Key,
    pub(crate) value: Expr,
    /// A comment at the end of the line on which it begins.
    pub(crate) after: Option<String>,
}

/// What stands before an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    None,
    /// `name=` in a call.
    Name(String),
    /// `"text": ` in a dict.
    Text(String),
    /// `**` in a dict.
    Spread,
}

impl Element {
    pub(crate) fn new(key: Key, value: Expr) -> Element {
        Element {
            comments: Vec::new(),
            key,
            value,
            after: None,
        }
    }

    fn prefix(&self) -> String {
        match &self.key {
            Key::None => String::new(),
            Key::Name(name) => format!("{name}="),
            Key::Text(text) => format!("{}: ", quoted(text)),
            Key::Spread => "**".to_owned(),
        }
    }
}

impl Expr {
    pub(crate) fn call(name: &str, elements: Vec<Element>) -> Expr {
        Expr::Group {
            open: format!("{name}("),
            close: ")",
            elements,
            trailing: Vec::new(),
        }
    }

    /// The name of what a call calls.
    pub(crate) fn class(&self) -> Option<&str> {
        match self {
            Expr::Group { open, .. } => open.strip_suffix('('),
            Expr::Atom(_) | Expr::Text(_) => None,
        }
    }

    pub(crate) fn elements(&self) -> &[Element] {
        match self {
            Expr::Group { elements, .. } => elements,
            Expr::Atom(_) | Expr::Text(_) => &[],
        }
    }

    pub(crate) fn elements_mut(&mut self) -> Option<&mut Vec<Element>> {
        match self {
            Expr::Group { elements, .. } => Some(elements),
            Expr::Atom(_) | Expr::Text(_) => None,
        }
    }

    /// Visits this expression and all within it, outermost first.
    pub(crate) fn visit(&self, see: &mut impl FnMut(&Expr)) {
        see(self);
        self.elements()
            .iter()
            .for_each(|element| element.value.visit(see));
    }

    /// Visits this expression and all within it, innermost first, to change them.
    pub(crate) fn visit_mut(&mut self, change: &mut impl FnMut(&mut Expr)) {
        for element in self.elements_mut().into_iter().flatten() {
            element.value.visit_mut(change);
        }
        change(self);
    }

    fn has_comments(&self) -> bool {
        match self {
            Expr::Group {
                elements, trailing, ..
            } => {
                !trailing.is_empty()
                    || elements.iter().any(|element| {
                        !element.comments.is_empty()
                            || element.after.is_some()
                            || element.value.has_comments()
                    })
            }
            Expr::Atom(_) | Expr::Text(_) => false,
        }
    }

    /// On one line.
    pub(crate) fn flat(&self) -> String {
        match self {
            Expr::Atom(text) => text.clone(),
            Expr::Text(text) => quoted(text),
            Expr::Group {
                open,
                close,
                elements,
                ..
            } => {
                let inside: Vec<String> = elements
                    .iter()
                    .map(|element| format!("{}{}", element.prefix(), element.value.flat()))
                    .collect();
                format!("{open}{}{close}", inside.join(", "))
            }
        }
    }

    /// Laid out from `column` on, in lines indented by `indent`; `after` more characters follow on the last line.
    pub(crate) fn layout(&self, indent: usize, column: usize, after: usize) -> String {
        let flat = self.flat();
        let Expr::Group {
            open,
            close,
            elements,
            trailing,
        } = self
        else {
            return flat;
        };
        let fits = column + flat.chars().count() + after <= WIDTH && !flat.contains('\n');
        if (fits || elements.is_empty()) && !self.has_comments() {
            return flat;
        }
        // A lone element gets no comma, as long as nothing else stands in the brackets.
        let comma = match elements.len() == 1 && open != "(" {
            true => "",
            false => ",",
        };
        let inner = indent + INDENT;
        let margin = " ".repeat(inner);
        let mut text = format!("{open}\n");
        for element in elements {
            text.push_str(&comment_lines(&element.comments, inner));
            let prefix = element.prefix();
            // A value with a comment of its own is broken over lines, so that the comment stands on the first.
            let column = if element.after.is_some() {
                WIDTH
            } else {
                inner + prefix.chars().count()
            };
            let value = element.value.layout(inner, column, comma.len());
            let mut line = format!("{margin}{prefix}{value}{comma}\n");
            if let Some(after) = &element.after {
                let end = line.find('\n').unwrap_or(line.len());
                line.insert_str(end, &format!("  # {after}"));
            }
            text.push_str(&line);
        }
        text.push_str(&comment_lines(trailing, inner));
        text.push_str(&format!("{}{close}", " ".repeat(indent)));
        text
    }
}

/// Comments, wrapped, each line indented; lines that go on with a comment hang below its first.
pub(crate) fn comment_lines(comments: &[String], indent: usize) -> String {
    hanging_lines(comments, indent, "  ")
}

/// Comments as paragraphs, wrapped.
pub(crate) fn paragraphs(comments: &[String]) -> String {
    hanging_lines(comments, 0, "")
}

fn hanging_lines(comments: &[String], indent: usize, hang: &str) -> String {
    let margin = " ".repeat(indent);
    let mut text = String::new();
    for comment in comments {
        let width = WIDTH.saturating_sub(indent + 2).max(40);
        for (index, line) in wrapped(comment, width).iter().enumerate() {
            let hang = if index == 0 { "" } else { hang };
            text.push_str(format!("{margin}# {hang}{line}").trim_end());
            text.push('\n');
        }
    }
    text
}

/// Breaks a text at blanks; a word longer than the width stands alone. Lines after the first are two shorter.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let room = if lines.len() > 1 {
            width.saturating_sub(2)
        } else {
            width
        };
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A text as Python writes it, with the quotes that need fewer escapes.
pub(crate) fn quoted(text: &str) -> String {
    let (double, single) = (text.matches('"').count(), text.matches('\'').count());
    let quote = if double > single { '\'' } else { '"' };
    format!("{quote}{}{quote}", escaped(text, quote))
}

fn escaped(text: &str, quote: char) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            // Characters that an editor shows as nothing, or as a line's end, are written by number.
            '\u{80}'..='\u{a0}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out
}

/// A text of several lines as a triple-quoted one, from its own first line on.
pub(crate) fn block(text: &str) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| {
            escaped(line, '\u{0}')
                .replace("\"\"\"", "\\\"\\\"\\\"")
                .replace("\\t", "\t")
        })
        .collect();
    let mut body = lines.join("\n");
    // Blanks before a line's end would be lost on the way through editors.
    body = body
        .split('\n')
        .map(keep_trailing_blank)
        .collect::<Vec<_>>()
        .join("\n");
    if body.ends_with('"') {
        body.pop();
        body.push_str("\\\"");
    }
    format!("\"\"\"\\\n{body}\"\"\"")
}

fn keep_trailing_blank(line: &str) -> String {
    match (line.strip_suffix(' '), line.strip_suffix('\t')) {
        (Some(start), _) => format!("{start}\\x20"),
        (_, Some(start)) => format!("{start}\\t"),
        _ => line.to_owned(),
    }
}

/// Reads an expression as the schema writes it, on one line.
pub(crate) fn parse(text: &str) -> Expr {
    let mut reader = Reader { text, at: 0 };
    reader.expression()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        if found {
            self.at += what.len();
        }
        found
    }

    fn expression(&mut self) -> Expr {
        if self.rest().starts_with('"') {
            return Expr::Text(self.string());
        }
        if self.skip("[") {
            return self.group("[".to_owned(), "]");
        }
        if self.skip("{") {
            return self.group("{".to_owned(), "}");
        }
        let end = self
            .rest()
            .find(['(', ',', ')', ']', '}'])
            .unwrap_or(self.rest().len());
        let atom = self.rest()[..end].to_owned();
        self.at += end;
        match self.skip("(") {
            true => self.group(format!("{atom}("), ")"),
            false => Expr::Atom(atom),
        }
    }

    fn group(&mut self, open: String, close: &'static str) -> Expr {
        let mut elements = Vec::new();
        while !self.skip(close) && !self.rest().is_empty() {
            let key = self.key(close);
            elements.push(Element::new(key, self.expression()));
            self.skip(", ");
        }
        Expr::Group {
            open,
            close,
            elements,
            trailing: Vec::new(),
        }
    }

    fn key(&mut self, close: &str) -> Key {
        match close {
            "}" => {
                let key = self.string();
                self.skip(": ");
                Key::Text(key)
            }
            ")" => {
                let rest = self.rest();
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                match rest[name.len()..].starts_with('=') {
                    true => {
                        self.at += name.len() + 1;
                        Key::Name(name)
                    }
                    false => Key::None,
                }
            }
            _ => Key::None,
        }
    }

    /// A text as JSON writes it.
    fn string(&mut self) -> String {
        let mut texts = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        let text = texts.next().and_then(Result::ok).unwrap_or_default();
        self.at += texts.byte_offset();
        text
    }
}
