//! `cargo xtask schema`: the shapes of requests and responses, taken from the message definitions that ship inside Kafka's own jar.
//!
//! The journey of a definition: which messages there are (the list in `protocol/src/request.rs`) → their JSON out of the
//! kafka-clients jar → [`Json`] → a table of constants, `table.rs` and `requests.rs` in `protocol/src/validate/`, against which every
//! response and, where a broker is played, every request is checked before it is decoded.

mod json;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use milena_kafka_process::{jars, need_java};

use crate::arguments::Arguments;
use crate::{Result, say, told, workspace};

use json::Json;

pub(crate) const HELP: &str = "\
cargo xtask schema: writes table.rs (of responses) and requests.rs in protocol/src/validate from the message definitions inside the
kafka-clients jar

Run it after the list in protocol/src/request.rs has changed. Needs a JDK, and Maven when the jar is not there yet.

  --check   only says whether the checked-in table is what would be written
";

pub(crate) fn main(mut arguments: Arguments) -> Result<()> {
    if arguments.asks_for_help() {
        print!("{HELP}");
        return Ok(());
    }
    let mut only_check = false;
    while let Some(flag) = arguments.next_word() {
        match flag.as_str() {
            "--check" => only_check = true,
            _ => return Err(arguments.unknown(&flag, HELP)),
        }
    }
    if only_check {
        return check();
    }
    let libs = jars::resolve(&workspace::kafka_dir(), jars::DEFAULT_VERSION).map_err(told)?;
    for half in HALVES {
        let (path, table) = (half.path(), half.generate(&libs)?);
        fs::write(&path, &table).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        say(&format!("wrote {}, {} lines", path.display(), table.lines().count()));
    }
    Ok(())
}

/// Whether the checked-in tables are up to date: against the jar if that is there, and always against the list of requests.
pub(crate) fn check() -> Result<()> {
    HALVES.iter().try_for_each(Half::check)
}

/// Requests or responses.
struct Half {
    /// With what the names of its messages end.
    ending: &'static str,
    /// Its table in `protocol/src/validate/`.
    file: &'static str,
    what: &'static str,
}

const HALVES: [Half; 2] = [
    Half { ending: "Response", file: "table.rs", what: "responses" },
    Half { ending: "Request", file: "requests.rs", what: "requests" },
];

impl Half {
    fn path(&self) -> PathBuf {
        workspace::root().join("protocol/src/validate").join(self.file)
    }

    fn check(&self) -> Result<()> {
        let path = self.path();
        let table = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        for message in self.messages()? {
            if !table.contains(&format!("\"{message}\"")) {
                return Err(format!("the table of shapes lacks {message}. Run:  cargo xtask schema"));
            }
        }
        let Some(libs) = jars::resolved(&workspace::kafka_dir(), jars::DEFAULT_VERSION) else {
            say("the jars of Kafka are not here, so the table of shapes was only compared with the list of requests");
            return Ok(());
        };
        if table == self.generate(&libs)? {
            Ok(())
        } else {
            Err(format!("{} is out of date. Run:  cargo xtask schema", path.display()))
        }
    }

    /// The messages that are decoded: the second or the third word of every line in the list of requests.
    fn messages(&self) -> Result<Vec<String>> {
        let path = workspace::root().join("protocol/src/request.rs");
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let found = messages_in(&text, self.ending);
        if found.is_empty() { Err(format!("no list of requests in {}", path.display())) } else { Ok(found) }
    }

    fn generate(&self, libs: &Path) -> Result<String> {
        let jar = libs.join(format!("kafka-clients-{}.jar", jars::DEFAULT_VERSION));
        let dir = workspace::kafka_dir().join(jars::DEFAULT_VERSION).join("messages");
        extract(&jar, &dir)?;
        let mut shapes = self
            .messages()?
            .iter()
            .map(|name| {
                let path = dir.join(MESSAGES).join(format!("{name}.json"));
                let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                Json::parse(&text).and_then(|json| Shape::new(&json)).map_err(|e| format!("{name}.json: {e}"))
            })
            .collect::<Result<Vec<_>>>()?;
        shapes.sort_by_key(|shape| shape.api_key);
        Ok(table(self.what, &shapes))
    }
}

fn messages_in(text: &str, ending: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| match *line.split_whitespace().collect::<Vec<_>>() {
            [key, request, response]
                if key.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                    && request.ends_with("Request")
                    && response.ends_with("Response") =>
            {
                [request, response].into_iter().find(|name| name.ends_with(ending)).map(str::to_owned)
            }
            _ => None,
        })
        .collect()
}

/// The whole file.
fn table(what: &str, shapes: &[Shape]) -> String {
    let shapes_text: String = shapes.iter().map(|shape| shape.text.as_str()).collect();
    // Names stand between quotes; what remains are the words that the table uses.
    let used: Vec<&str> = shapes_text
        .split('"')
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .collect();
    let uses = |word: &str| used.contains(&word);
    let kinds = ["Array", "Bytes", "String", "Struct"];
    let mut out = HEADER.replace("WHAT", what);
    let _ = writeln!(
        out,
        "use super::Kind::{{{}}};",
        kinds.into_iter().filter(|kind| uses(kind)).collect::<Vec<_>>().join(", ")
    );
    out.push_str("use super::shape::{LAST, field, structure};\nuse super::{Kind, Message};\n\n");
    for (name, bytes) in FIXED.into_iter().filter(|(name, _)| uses(name)) {
        let _ = writeln!(out, "const {name}: Kind = Kind::Fixed({bytes});");
    }
    let _ = write!(out, "\npub(super) static MESSAGES: [Message; {}] = [\n{shapes_text}];\n", shapes.len());
    out
}

/// The types of one length, and their bytes: on the wire and in memory.
const FIXED: [(&str, usize); 6] = [("BOOL", 1), ("I8", 1), ("I16", 2), ("I32", 4), ("I64", 8), ("UUID", 16)];

/// Where the definitions lie inside the jar.
const MESSAGES: &str = "common/message";

/// A jar is a zip; the JDK that runs Kafka opens it.
fn extract(jar: &Path, dir: &Path) -> Result<()> {
    need_java().map_err(told)?;
    fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    let status = Command::new("jar")
        .arg("--extract")
        .arg("--file")
        .arg(jar)
        .arg(MESSAGES)
        .current_dir(dir)
        .stdin(Stdio::null())
        .status()
        .map_err(|e| format!("cannot run jar, which is part of a JDK: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("jar could not open {}: {status}", jar.display())) }
}

const HEADER: &str = "\
//! The shapes of WHAT, as the message definitions of Kafka 4.3.0 have them.
//!
//! Written by `cargo xtask schema`; do not edit. `mod.rs` says what the words mean.

";

/// One message as Rust text.
struct Shape {
    api_key: i64,
    text: String,
}

impl Shape {
    fn new(json: &Json) -> Result<Self> {
        let api_key = json.number("apiKey")?;
        let name = json.text("name")?;
        let (first, last) = versions(json.text("validVersions")?)?.ok_or("it has no valid version")?;
        let flexible = versions(json.text("flexibleVersions")?)?;
        let mut text = format!(
            "    Message {{ api_key: {api_key}, name: {name:?}, versions: ({first}, {last}), flexible: {}, root: ",
            flexible.map_or("LAST".to_owned(), |(since, _)| since.to_string())
        );
        let empty = Json::Array(Vec::new());
        let common = json.get("commonStructs").unwrap_or(&empty).array()?;
        Writer { common, is_flexible: flexible.is_some() }.structure(&mut text, json, 1)?;
        text.push_str(" },\n");
        Ok(Self { api_key, text })
    }
}

struct Writer<'a> {
    common: &'a [Json],
    is_flexible: bool,
}

impl Writer<'_> {
    /// Writes a structure and says how many bytes its Rust type takes.
    fn structure(&self, out: &mut String, json: &Json, depth: usize) -> Result<usize> {
        let indent = "    ".repeat(depth);
        let mut fields = String::new();
        // Fields of an unknown version of the message are kept in a map.
        let mut memory = if self.is_flexible { MAP_BYTES } else { 0 };
        for field in json.get("fields").ok_or("a structure has no fields")?.array()? {
            let name = field.text("name")?;
            if field.get("flexibleVersions").is_some() {
                return Err(format!("{name} has flexible versions of its own, which the table has no word for"));
            }
            let Some((since, until)) = versions(field.text("versions")?)? else { continue };
            let (kind, bytes) = self.kind(field.text("type")?, field, depth + 1)?;
            memory += bytes;
            let _ = write!(fields, "{indent}    field({name:?}, {since}, {}, {kind})", last(until));
            if let Some((since, until)) = optional_versions(field, "nullableVersions")? {
                let _ = write!(fields, ".nullable({since}, {})", last(until));
                if kind.starts_with("Struct") {
                    memory += 8;
                }
            }
            if let Some((since, until)) = optional_versions(field, "taggedVersions")? {
                let _ = write!(fields, ".tagged({}, {since}, {})", field.number("tag")?, last(until));
            }
            fields.push_str(",\n");
        }
        let memory = memory.next_multiple_of(8);
        let _ = write!(out, "structure({memory}, &[\n{fields}{indent}])");
        Ok(memory)
    }

    /// A type as Rust text, and the bytes it takes inside its structure.
    fn kind(&self, name: &str, field: &Json, depth: usize) -> Result<(String, usize)> {
        if let Some(element) = name.strip_prefix("[]") {
            let (element, _) = self.kind(element, field, depth)?;
            return Ok((format!("Array(&{element})"), VEC_BYTES));
        }
        let (text, bytes) = match name {
            "bool" => ("BOOL", 1),
            "int8" => ("I8", 1),
            "int16" => ("I16", 2),
            "int32" => ("I32", 4),
            "int64" => ("I64", 8),
            "uuid" => ("UUID", 16),
            "string" => ("String", SLICE_BYTES),
            "bytes" | "records" => ("Bytes", SLICE_BYTES),
            _ => {
                let own = field.get("fields").map(|_| field);
                let definition = own
                    .or_else(|| self.common.iter().find(|s| s.text("name") == Ok(name)))
                    .ok_or_else(|| format!("the type {name} is not defined, or the table has no word for it"))?;
                let mut text = "Struct(&".to_owned();
                let bytes = self.structure(&mut text, definition, depth)?;
                text.push(')');
                return Ok((text, bytes));
            }
        };
        Ok((text.to_owned(), bytes))
    }
}

/// A counted slice (`bytes::Bytes`), a vector, a map, on a machine of 64 bits.
const SLICE_BYTES: usize = 32;
const VEC_BYTES: usize = 24;
const MAP_BYTES: usize = 24;

fn optional_versions(field: &Json, key: &str) -> Result<Option<(i16, i16)>> {
    if field.get(key).is_some() { versions(field.text(key)?) } else { Ok(None) }
}

/// `3+`, `0-4`, `2` or `none`.
fn versions(text: &str) -> Result<Option<(i16, i16)>> {
    let number = |text: &str| text.parse::<i16>().map_err(|_| format!("{text:?} is no version"));
    if text == "none" {
        return Ok(None);
    }
    let (first, end) = match (text.strip_suffix('+'), text.split_once('-')) {
        (Some(first), _) => (number(first)?, i16::MAX),
        (None, Some((first, end))) => (number(first)?, number(end)?),
        (None, None) => (number(text)?, number(text)?),
    };
    Ok((first <= end).then_some((first, end)))
}

fn last(version: i16) -> String {
    if version == i16::MAX { "LAST".to_owned() } else { version.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_versions_are_read_as_kafka_writes_them() {
        assert_eq!(versions("3+"), Ok(Some((3, i16::MAX))));
        assert_eq!(versions("0-4"), Ok(Some((0, 4))));
        assert_eq!(versions("2"), Ok(Some((2, 2))));
        assert_eq!(versions("none"), Ok(None));
        assert!(versions("x+").is_err());
    }

    #[test]
    fn the_list_of_requests_names_the_messages() {
        let text =
            "/// A macro.\nevery {\n    LIST_GROUPS ListGroupsRequest ListGroupsResponse\n    type Response = Y;\n}";
        assert_eq!(messages_in(text, "Response"), ["ListGroupsResponse"]);
        assert_eq!(messages_in(text, "Request"), ["ListGroupsRequest"]);
    }

    #[test]
    fn a_definition_becomes_constants() {
        let json = r#"// licence
            { "apiKey": 9, "type": "response", "name": "XResponse", "validVersions": "0-2", "flexibleVersions": "1+",
              "fields": [
                { "name": "Code", "type": "int16", "versions": "0+" },
                { "name": "Groups", "type": "[]Group", "versions": "1+", "nullableVersions": "2+", "taggedVersions": "2+", "tag": 3,
                  "fields": [ { "name": "Id", "type": "string", "versions": "1-1" } ] } // the end
              ] }"#;
        let shape = Shape::new(&Json::parse(json).unwrap()).unwrap();
        assert_eq!(
            shape.text,
            r#"    Message { api_key: 9, name: "XResponse", versions: (0, 2), flexible: 1, root: structure(56, &[
        field("Code", 0, LAST, I16),
        field("Groups", 1, LAST, Array(&Struct(&structure(56, &[
            field("Id", 1, 1, String),
        ])))).nullable(2, LAST).tagged(3, 2, LAST),
    ]) },
"#
        );
    }
}
