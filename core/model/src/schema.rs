//! The one schema: what a type of the spec language knows of itself, and the macros that declare such types.
//!
//! `spec!` declares a struct once and expands to the struct, its stored form, its decoding from what an
//! author wrote, its field table, its comparison and its Python class. No field exists without a type, a doc
//! and an effect; `choice!` and `one_of!` do the same for enumerations and unions.

use serde_json::Value;

use crate::{Change, Decoder, Effect, FieldPath};

/// What a change of a field does.
pub enum Rule<T> {
    /// Always this.
    Fixed(Effect),
    /// It depends on the two values.
    By(fn(&T, &T) -> Effect),
}

impl<T> Rule<T> {
    pub fn effect(&self, old: &T, new: &T) -> Effect {
        match self {
            Rule::Fixed(effect) => *effect,
            Rule::By(decide) => decide(old, new),
        }
    }

    /// The effect of a value that appears or disappears as a whole.
    pub fn fixed(&self) -> Effect {
        match self {
            Rule::Fixed(effect) => *effect,
            Rule::By(_) => Effect::Restart,
        }
    }
}

/// A type that a field of a spec may have.
pub trait SpecType: Sized + PartialEq {
    /// The annotation in the generated Python.
    fn python_type() -> String;

    /// The Python expression that makes this value.
    fn to_python(&self) -> String;

    /// The value in stored and stable JSON.
    fn to_json(&self) -> Value;

    /// Reads what an author wrote; reports what is wrong with it and returns none.
    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Self>;

    /// Adds each difference between `old` and `new` below `at`.
    fn diff(old: &Self, new: &Self, at: &FieldPath, rule: &Rule<Self>, changes: &mut Vec<Change>) {
        if old != new {
            changes.push(Change {
                path: at.to_string(),
                old: old.to_json(),
                new: new.to_json(),
                effect: rule.effect(old, new),
                cause: None,
            });
        }
    }

    /// The type's own struct tables, for the reference and the Python module; inner types first.
    fn describe(_tables: &mut Vec<StructInfo>) {}
}

/// An element of a list that is compared by key, not by position.
pub trait Keyed {
    fn key(&self) -> String;
}

/// A struct of the spec language, as the reference and the Python module show it.
#[derive(Clone, Debug)]
pub struct StructInfo {
    pub name: &'static str,
    pub doc: String,
    pub fields: Vec<FieldInfo>,
    /// Python methods beside the generated ones.
    pub python_extra: &'static str,
}

/// A field of such a struct.
#[derive(Clone, Debug)]
pub struct FieldInfo {
    /// The name that authors write.
    pub name: &'static str,
    /// The name in JSON, with its unit.
    pub json: &'static str,
    pub doc: String,
    /// How authors write it, as a keyword argument; empty where they cannot.
    pub example: String,
    pub python_type: String,
    /// The default as Python; none for a required field.
    pub default: Option<String>,
    /// The effect of a change, in words.
    pub effect: &'static str,
    /// Filled in by evaluation; authors cannot set it.
    pub resolved: bool,
}

/// Joins doc lines as rustc hands them over (each with its leading space).
pub(crate) fn doc_text(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

/// Splits the example off the docs of a field: the line that begins with `Example:`.
pub(crate) fn field_doc(lines: &[&str]) -> (String, String) {
    let (example, doc): (Vec<&str>, Vec<&str>) = lines
        .iter()
        .map(|line| line.trim())
        .partition(|line| line.starts_with("Example: "));
    let example = example
        .first()
        .map_or("", |line| &line["Example: ".len()..]);
    (doc_text(&doc), example.trim_matches('`').to_owned())
}

macro_rules! json_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $json:literal) => {
        $json
    };
}

macro_rules! rule {
    (by($decide:path)) => {
        $crate::Rule::By($decide)
    };
    (none) => {
        $crate::Rule::Fixed($crate::Effect::None)
    };
    (scale) => {
        $crate::Rule::Fixed($crate::Effect::Scale)
    };
    (in_place) => {
        $crate::Rule::Fixed($crate::Effect::InPlace)
    };
    (restart) => {
        $crate::Rule::Fixed($crate::Effect::Restart)
    };
    (recreate) => {
        $crate::Rule::Fixed($crate::Effect::Recreate)
    };
}

macro_rules! rule_text {
    (by($decide:path)) => {
        "depends on the values"
    };
    ($effect:ident) => {
        stringify!($effect)
    };
}

/// What a field holds when the author leaves it out; none where it is required.
macro_rules! author_default {
    () => {
        None
    };
    ($default:expr) => {
        Some($default)
    };
}

macro_rules! is_resolved {
    () => {
        false
    };
    (resolved) => {
        true
    };
}

/// Declares a struct of the spec language. See the module's text.
macro_rules! spec {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident $(as $class:literal)? {
            $(
                $(#[doc = $fdoc:literal])*
                $field:ident $(as $json:literal)? : $ty:ty $(= $default:expr)? => $effect:ident $(($by:path))? $(, $resolved:ident)? ;
            )*
        }
        $(check $check:path;)?
        $(python $extra:literal;)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, ::serde::Serialize)]
        pub struct $name {
            $(
                $(#[doc = $fdoc])*
                $(#[serde(rename = $json)])?
                pub $field: $ty,
            )*
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use ::serde::de::Error;
                struct Fields;
                impl<'de> ::serde::de::Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str(concat!("the fields of ", stringify!($name)))
                    }

                    fn visit_map<M: ::serde::de::MapAccess<'de>>(self, mut stored: M) -> Result<$name, M::Error> {
                        $( let mut $field: Option<$ty> = None; )*
                        while let Some(key) = stored.next_key::<String>()? {
                            $(
                                if key == json_name!($field $($json)?) {
                                    let found = stored.next_value();
                                    $field = Some(found.map_err(|cause| M::Error::custom(format_args!("{key}: {cause}")))?);
                                    continue;
                                }
                            )*
                            return Err(M::Error::custom(format_args!(
                                "{} has a field '{key}' that this version of Twill does not know", stringify!($name)
                            )));
                        }
                        Ok($name {
                            $(
                                $field: match $field {
                                    Some(found) => found,
                                    None => match author_default!($($default)?) {
                                        Some(default) => default,
                                        None => return Err(M::Error::missing_field(json_name!($field $($json)?))),
                                    },
                                },
                            )*
                        })
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }

        impl $crate::SpecType for $name {
            fn python_type() -> String {
                json_name!($name $($class)?).to_owned()
            }

            fn to_python(&self) -> String {
                let mut arguments: Vec<String> = Vec::new();
                $(
                    let default: Option<$ty> = author_default!($($default)?);
                    if !is_resolved!($($resolved)?) && default.as_ref() != Some(&self.$field) {
                        arguments.push(format!("{}={}", stringify!($field), $crate::SpecType::to_python(&self.$field)));
                    }
                )*
                format!("{}({})", json_name!($name $($class)?), arguments.join(", "))
            }

            fn to_json(&self) -> ::serde_json::Value {
                ::serde_json::to_value(self).unwrap_or_default()
            }

            fn from_author(value: &::serde_json::Value, at: &$crate::FieldPath, decoder: &mut $crate::Decoder) -> Option<Self> {
                const NAMES: &[&str] = &[$(stringify!($field)),*];
                let object = decoder.object(value, json_name!($name $($class)?), NAMES, at)?;
                $(
                    let $field: Option<$ty> = object.field(
                        stringify!($field), json_name!($field $($json)?), author_default!($($default)?), decoder,
                    );
                )*
                let made = $name { $($field: $field?),* };
                $( $check(&made, at, decoder)?; )?
                Some(made)
            }

            fn diff(old: &Self, new: &Self, at: &$crate::FieldPath, _rule: &$crate::Rule<Self>, changes: &mut Vec<$crate::Change>) {
                $(
                    <$ty as $crate::SpecType>::diff(
                        &old.$field, &new.$field,
                        &at.field(json_name!($field $($json)?)),
                        &rule!($effect $(($by))?),
                        changes,
                    );
                )*
            }

            fn describe(tables: &mut Vec<$crate::StructInfo>) {
                if tables.iter().any(|table| table.name == json_name!($name $($class)?)) {
                    return;
                }
                $( <$ty as $crate::SpecType>::describe(tables); )*
                tables.push($crate::StructInfo {
                    name: json_name!($name $($class)?),
                    doc: $crate::schema::doc_text(&[$($doc),*]),
                    python_extra: concat!("" $(, $extra)?),
                    fields: vec![$(
                        $crate::FieldInfo {
                            name: stringify!($field),
                            json: json_name!($field $($json)?),
                            doc: $crate::schema::field_doc(&[$($fdoc),*]).0,
                            example: $crate::schema::field_doc(&[$($fdoc),*]).1,
                            python_type: <$ty as $crate::SpecType>::python_type(),
                            default: {
                                let default: Option<$ty> = author_default!($($default)?);
                                default.as_ref().map($crate::SpecType::to_python)
                            },
                            effect: rule_text!($effect $(($by))?),
                            resolved: is_resolved!($($resolved)?),
                        },
                    )*],
                });
            }
        }
    };
}

/// Declares an enumeration whose values authors write as text.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident { $( $(#[doc = $vdoc:literal])* $variant:ident = $text:literal, )* }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $( $(#[doc = $vdoc])* #[serde(rename = $text)] $variant, )*
        }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text, )* }
            }
        }

        impl $crate::SpecType for $name {
            fn python_type() -> String {
                format!("Literal[{}]", [$(concat!("\"", $text, "\"")),*].join(", "))
            }

            fn to_python(&self) -> String {
                format!("\"{}\"", self.as_str())
            }

            fn to_json(&self) -> ::serde_json::Value {
                self.as_str().into()
            }

            fn from_author(value: &::serde_json::Value, at: &$crate::FieldPath, decoder: &mut $crate::Decoder) -> Option<Self> {
                match value.as_str() {
                    $( Some($text) => Some($name::$variant), )*
                    _ => decoder.not_one_of(value, at, &[$($text),*]),
                }
            }
        }
    };
}

/// Declares a union of structs; each is told from the others by its `type` in JSON and its class in Python.
macro_rules! one_of {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident { $( $(#[doc = $vdoc:literal])* $variant:ident($inner:ident) = $tag:literal, )* }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $( $(#[doc = $vdoc])* $variant($inner), )*
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::SpecType::to_json(self).serialize(serializer)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use ::serde::de::Error;
                let mut stored = ::serde_json::Map::<String, ::serde_json::Value>::deserialize(deserializer)?;
                let tag = stored.swap_remove("type").ok_or_else(|| D::Error::missing_field("type"))?;
                match tag.as_str() {
                    $( Some($tag) => ::serde_json::from_value(stored.into()).map($name::$variant).map_err(D::Error::custom), )*
                    _ => Err(D::Error::custom(format_args!("{} has no type {tag}", stringify!($name)))),
                }
            }
        }

        impl $crate::SpecType for $name {
            fn python_type() -> String {
                [$(<$inner as $crate::SpecType>::python_type()),*].join(" | ")
            }

            fn to_python(&self) -> String {
                match self { $( $name::$variant(inner) => inner.to_python(), )* }
            }

            fn to_json(&self) -> ::serde_json::Value {
                let (tag, inner) = match self { $( $name::$variant(inner) => ($tag, inner.to_json()), )* };
                let mut tagged = ::serde_json::Map::new();
                tagged.insert("type".to_owned(), tag.into());
                if let ::serde_json::Value::Object(fields) = inner {
                    tagged.extend(fields);
                }
                tagged.into()
            }

            fn from_author(value: &::serde_json::Value, at: &$crate::FieldPath, decoder: &mut $crate::Decoder) -> Option<Self> {
                match $crate::Decoder::class_of(value) {
                    $( Some(stringify!($inner)) => <$inner as $crate::SpecType>::from_author(value, at, decoder).map($name::$variant), )*
                    _ => decoder.wrong_type(value, at, &[$(stringify!($inner)),*].join(" or ")),
                }
            }

            fn diff(old: &Self, new: &Self, at: &$crate::FieldPath, rule: &$crate::Rule<Self>, changes: &mut Vec<$crate::Change>) {
                match (old, new) {
                    $( ($name::$variant(old), $name::$variant(new)) => {
                        $crate::SpecType::diff(old, new, at, &$crate::Rule::Fixed(rule.fixed()), changes);
                    } )*
                    _ => changes.push($crate::Change {
                        path: at.to_string(), old: old.to_json(), new: new.to_json(), effect: rule.fixed(),
                        cause: None,
                    }),
                }
            }

            fn describe(tables: &mut Vec<$crate::StructInfo>) {
                $( <$inner as $crate::SpecType>::describe(tables); )*
            }
        }
    };
}
