//! Which place in the source each value of a job came from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{LazyLock, OnceLock};

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use tw_model::{Decoder, FieldPath, JobSpec, Location};

use crate::Frame;

/// Where the values of one job were written. Paths are those of `tw eval`'s JSON.
///
/// Kept as bytes until somebody asks: of the jobs of a large repository hardly any is asked about.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Provenance {
    packed: Packed,
    #[serde(skip)]
    places: OnceLock<Box<Places>>,
}

/// Bytes that are read and written as one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packed(pub(crate) Box<[u8]>);

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Packed, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Packed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Packed, E> {
                Ok(Packed(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl fmt::Debug for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.places().fmt(f)
    }
}

impl PartialEq for Provenance {
    fn eq(&self, other: &Provenance) -> bool {
        self.packed == other.packed
    }
}

impl Eq for Provenance {}

/// As [`Provenance`], spread out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Path → where the value was written; for an object, where it was made.
    spans: BTreeMap<String, Location>,
    /// Path of an object → the places that led to it, nearest first: its own, then the calls around it.
    trails: BTreeMap<String, Vec<Frame>>,
    /// Start of a span → its end (line and column, exclusive).
    ends: BTreeMap<Location, (u32, u32)>,
    /// Path → definitions that the value's expression refers to, nearest first.
    references: BTreeMap<String, Vec<Location>>,
}

impl Provenance {
    /// Where the value at `path`, or else what holds it, was written.
    pub fn locate(&self, path: &str) -> Option<&Location> {
        nearest(&self.places().spans, path)
    }

    /// The places that led to the value at `path`: where it was written, what it refers to, then the
    /// calls around it, nearest first.
    pub fn trail(&self, path: &str) -> Vec<Location> {
        let written = self.locate(path).cloned();
        let references = self.references(path).cloned();
        let calls = self.calls(path).iter().map(place_of);
        written.into_iter().chain(references).chain(calls).collect()
    }

    /// The definitions that the expression of the value at `path` refers to, nearest first.
    pub(crate) fn references(&self, path: &str) -> impl Iterator<Item = &Location> {
        nearest(&self.places().references, path)
            .into_iter()
            .flatten()
    }

    /// Where the value at `path` itself was written; none if it is a default.
    pub(crate) fn written(&self, path: &str) -> Option<&Location> {
        self.places().spans.get(path)
    }

    /// The call that made the value at `path`, or what holds it, and the calls around that, nearest first.
    pub(crate) fn calls(&self, path: &str) -> &[Frame] {
        nearest(&self.places().trails, path).map_or(&[], Vec::as_slice)
    }

    /// The end of the span that begins at `start`.
    pub(crate) fn end_of(&self, start: &Location) -> Option<(u32, u32)> {
        self.places().ends.get(start).copied()
    }

    fn places(&self) -> &Places {
        self.places
            .get_or_init(|| postcard::from_bytes(&self.packed.0).unwrap_or_default())
    }
}

impl Places {
    /// Reads the places in a job's author JSON, and teaches `decoder` those inside literals. Places in files
    /// other than those that the spec `was_read` from are dropped: they are made up.
    pub(crate) fn read(job: &Value, decoder: &mut Decoder, was_read: &BTreeSet<&str>) -> Places {
        let mut places = Places::default();
        places.object(job, &FieldPath::root());
        places.keep_only(was_read);
        decoder.spans.extend(places.spans.clone());
        places
    }

    /// Takes over what decoding found out: elements of lists are known by their keys, too.
    pub(crate) fn finish(mut self, decoder: Decoder, was_read: &BTreeSet<&str>) -> Places {
        for (path, place) in &decoder.spans {
            let same =
                |made: &&Vec<Frame>| made.first().is_some_and(|call| place_of(call) == *place);
            if let Some(trail) = self
                .trails
                .values()
                .find(same)
                .filter(|_| !self.trails.contains_key(path))
            {
                let trail = trail.clone();
                self.trails.insert(path.clone(), trail);
            }
        }
        self.spans.extend(decoder.spans);
        self.keep_only(was_read);
        self
    }

    /// Packs it for keeping.
    pub(crate) fn packed(&self) -> Provenance {
        Provenance {
            packed: Packed(postcard::to_stdvec(self).unwrap_or_default().into()),
            places: OnceLock::new(),
        }
    }

    /// The job's place in its spec file: the call there that led to it.
    pub(crate) fn source_in(&self, spec: &str) -> Option<Location> {
        let calls = self.trails.get("")?;
        calls
            .iter()
            .find(|call| call.file == spec)
            .or(calls.first())
            .map(place_of)
    }

    fn keep_only(&mut self, files: &BTreeSet<&str>) {
        let kept = |place: &Location| files.contains(place.file.as_str());
        self.spans.retain(|_, place| kept(place));
        self.ends.retain(|start, _| kept(start));
        for places in self.references.values_mut() {
            places.retain(kept);
        }
        for calls in self.trails.values_mut() {
            calls.retain(|call| files.contains(call.file.as_str()));
        }
        self.trails.retain(|_, calls| !calls.is_empty());
    }

    fn object(&mut self, value: &Value, at: &FieldPath) {
        if let Some(here) = self.place(value.get("at")) {
            let calls = value
                .get("calls")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            self.trails
                .insert(at.to_string(), calls.filter_map(frame).collect());
            self.spans.insert(at.to_string(), here);
        }
        let fields = value
            .get("fields")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let spans = value.get("spans").and_then(Value::as_object);
        for (name, inner) in fields {
            let here = at.field(json_name(
                Decoder::class_of(value).unwrap_or_default(),
                name,
            ));
            self.references_of(value, name, &here);
            if let Some(spans) = spans {
                self.literal(inner, name, spans, &here);
            }
            self.nested(inner, &here);
        }
    }

    /// Notes the span of a value and of those inside it.
    fn literal(
        &mut self,
        value: &Value,
        key: &str,
        spans: &serde_json::Map<String, Value>,
        at: &FieldPath,
    ) {
        let Some(here) = self.place(spans.get(key)) else {
            return;
        };
        self.spans.insert(at.to_string(), here);
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.literal(item, &format!("{key}.{index}"), spans, &at.item(index));
                }
            }
            Value::Object(entries) if Decoder::class_of(value).is_none() => {
                for (name, entry) in entries {
                    self.literal(entry, &format!("{key}.{name}"), spans, &at.field(name));
                }
            }
            _ => {}
        }
    }

    fn nested(&mut self, value: &Value, at: &FieldPath) {
        match value {
            Value::Object(_) if Decoder::class_of(value).is_some() => self.object(value, at),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.nested(item, &at.item(index));
                }
            }
            _ => {}
        }
    }

    /// Notes what a field refers to, and what each entry of a dict does; one that refers to nothing is noted, too.
    fn references_of(&mut self, object: &Value, name: &str, at: &FieldPath) {
        let refs = object.get("refs").and_then(Value::as_object);
        for (key, found) in refs.into_iter().flatten() {
            let path = match key.strip_prefix(name) {
                Some("") => at.to_string(),
                Some(entry) if entry.starts_with('.') => at.field(&entry[1..]).to_string(),
                _ => continue,
            };
            let spans = found.as_array().into_iter().flatten();
            let found: Vec<Location> = spans.filter_map(|span| self.place(Some(span))).collect();
            self.references.insert(path, found);
        }
    }

    fn place(&mut self, span: Option<&Value>) -> Option<Location> {
        let span = span?;
        let start = location(span)?;
        if let (Some(line), Some(column)) = (number(span, 3), number(span, 4)) {
            self.ends.insert(start.clone(), (line, column));
        }
        Some(start)
    }
}

/// The name in JSON of a field that authors know as `name`.
fn json_name<'a>(class: &str, name: &'a str) -> &'a str {
    static NAMES: LazyLock<HashMap<(&str, &str), &str>> = LazyLock::new(|| {
        let tables = JobSpec::tables();
        let named = |table: &tw_model::StructInfo| {
            let class = table.name;
            table
                .fields
                .iter()
                .map(move |field| ((class, field.name), field.json))
                .collect::<Vec<_>>()
        };
        tables.iter().flat_map(named).collect()
    });
    NAMES.get(&(class, name)).copied().unwrap_or(name)
}

/// The entry of the longest path that `path` begins with.
fn nearest<'a, T>(entries: &'a BTreeMap<String, T>, path: &str) -> Option<&'a T> {
    let mut path = path;
    loop {
        if let Some(found) = entries.get(path) {
            return Some(found);
        }
        path = FieldPath::parent(path)?;
    }
}

fn location(span: &Value) -> Option<Location> {
    Some(Location {
        file: span.get(0)?.as_str()?.to_owned(),
        line: number(span, 1)?,
        column: number(span, 2)?,
    })
}

fn frame(call: &Value) -> Option<Frame> {
    let Location { file, line, column } = location(call)?;
    let function = call.get(3)?.as_str()?.to_owned();
    Some(Frame {
        file,
        line,
        column,
        function,
        source_line: None,
    })
}

fn place_of(call: &Frame) -> Location {
    Location {
        file: call.file.clone(),
        line: call.line,
        column: call.column,
    }
}

fn number(span: &Value, index: usize) -> Option<u32> {
    span.get(index)?.as_u64()?.try_into().ok()
}
