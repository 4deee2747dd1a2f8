//! The JSON Schema (draft 2020-12) of a configuration, made from the loader's own tables.
//!
//! Editors complete and check with it while somebody types. The trap is a schema that is stricter than the loader:
//! an editor that marks a good file as wrong is soon told to be quiet. So where a pattern cannot say it exactly it is
//! lax, a text that YAML may read as a number (`name: 7`) may be one, and `sluice check` has the last word.

use serde_json::{Map, Value as Json, json};

use super::schema::{Absent, Entry, TABLES, TOP, Table, Value};

const V4: &str = r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// Lax: what has a colon and nothing but what IPv6 addresses are made of.
const V6: &str = "[0-9A-Fa-f]*:[0-9A-Fa-f:.]*";
const PORT: &str = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// RFC 9110 §5.6.2.
const TOKEN: &str = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";

/// The whole schema.
pub fn generate() -> Json {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("Sluice configuration"));
    schema.insert(
        "description".to_owned(),
        json!("What an editor can see. `sluice check -c FILE` checks the rest: what takes two values to see."),
    );
    schema.extend(mapping(&TOP));
    let mut definitions = Map::new();
    for table in TABLES.iter().filter(|table| !table.place.is_empty()) {
        definitions.insert(table_name(table), Json::Object(mapping(table)));
    }
    for table in TABLES {
        for (_, entry) in table.built() {
            define(&entry.value, &mut definitions);
        }
    }
    schema.insert("$defs".to_owned(), Json::Object(definitions));
    Json::Object(schema)
}

/// The schema as it is printed and checked in.
pub fn text() -> String {
    format!("{:#}\n", generate())
}

/// `services[].health.http` as `services-health-http`.
fn table_name(table: &Table) -> String {
    table.place.replace("[]", "").replace('.', "-")
}

fn mapping(table: &Table) -> Map<String, Json> {
    let properties: Map<_, _> = table.built().map(|(name, entry)| (name.to_owned(), property(entry))).collect();
    let required: Vec<_> =
        table.built().filter(|(_, entry)| matches!(entry.absent, Absent::Refused(_))).map(|(name, _)| name).collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Json::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    if !table.at_most_one.is_empty() {
        // One of them and no other, or none.
        let with = |key: &&str| json!({ "required": [key] });
        let alternatives: Vec<_> = table.at_most_one.iter().map(with).collect();
        let none = json!({ "not": { "anyOf": alternatives } });
        schema.insert("oneOf".to_owned(), alternatives.into_iter().chain([none]).collect());
    }
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

fn property(entry: &Entry) -> Json {
    let mut schema = value(&entry.value);
    let about = match entry.absent {
        Absent::Depends(otherwise) => format!("{}. Default: {otherwise}", entry.about),
        _ => entry.about.to_owned(),
    };
    schema["description"] = json!(about);
    if let Absent::Is(text) = entry.absent {
        schema["default"] = match entry.value {
            Value::Integer(..) => json!(text.parse::<u32>().expect("the default of a number is one")),
            Value::Flag => json!(text == "true"),
            _ => json!(text),
        };
    }
    schema
}

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn value(value: &Value) -> Json {
    match value {
        Value::Version => json!({ "const": 1 }),
        Value::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Value::Choice(choice) => json!({ "enum": choice.built().collect::<Vec<_>>() }),
        Value::Word(word) => json!({ "const": word }),
        Value::Empty => json!({ "type": "null" }),
        Value::Flag => json!({ "enum": [true, false, "true", "false"] }),
        Value::Table(table) => reference(&table_name(table)),
        Value::List(0, each) => json!({ "type": "array", "items": self::value(each) }),
        Value::List(least, each) => json!({ "type": "array", "items": self::value(each), "minItems": least }),
        Value::OneOrMany(each) => {
            let each = self::value(each);
            json!({ "anyOf": [each, { "type": "array", "items": each, "minItems": 1 }] })
        }
        Value::Either(values) => json!({ "anyOf": values.iter().map(self::value).collect::<Vec<_>>() }),
        text => reference(&text_schema(text).0),
    }
}

/// Adds what `value` refers to.
fn define(value: &Value, definitions: &mut Map<String, Json>) {
    match value {
        Value::Version
        | Value::Integer(..)
        | Value::Choice(_)
        | Value::Word(_)
        | Value::Empty
        | Value::Flag
        // Tables have their places in the list of all.
        | Value::Table(_) => {}
        Value::List(_, each) | Value::OneOrMany(each) => define(each, definitions),
        Value::Either(values) => values.iter().for_each(|value| define(value, definitions)),
        text => {
            let (name, schema) = text_schema(text);
            if let Value::BackendName = text {
                [Value::Name, Value::Address].iter().for_each(|value| define(value, definitions));
            }
            definitions.entry(name).or_insert(schema);
        }
    }
}

/// A text of a certain form: what it is called, and its form.
fn text_schema(value: &Value) -> (String, Json) {
    let text = |pattern: String| json!({ "type": "string", "pattern": format!("^({pattern})$") });
    // YAML reads some of these texts as numbers or truth values; the loader takes them as they are written.
    let any = |pattern: String| json!({ "type": ["string", "number", "boolean"], "pattern": format!("^({pattern})$") });
    let (name, mut schema, form) = match value {
        Value::Duration(..) => {
            ("duration", text("[0-9]+(ms|s|m|h)".to_owned()), "such as `500ms`, `2s`, `15m` or `1h`")
        }
        Value::Rate(..) => ("rate", text("[0-9]+[kM]?/s".to_owned()), "such as `500/s`, `10k/s` or `2M/s`"),
        Value::Percent(most) => {
            // Whole tens below the bound, and the bound itself.
            assert!(most % 10 == 0 && (10..=100).contains(most), "the pattern is made for such bounds");
            let below = format!("[1-{}]?[0-9]", most / 10 - 1);
            let pattern = format!(r"0*({most}(\.0+)?|{below}(\.[0-9]+)?)%");
            return (
                format!("percent-{most}"),
                json!({ "type": "string", "pattern": format!("^({pattern})$"),
                    "description": format!("such as `10%`, from 0% to {most}%") }),
            );
        }
        Value::Path => ("path", text(r"/[^\x00-\x1f\x7f]*".to_owned()), "from the root, such as `/run/sluice`"),
        Value::Name => (
            "name",
            any("[0-9A-Za-z][0-9A-Za-z._-]{0,62}".to_owned()),
            "letters, digits, `.`, `_` and `-`; starts with a letter or digit; at most 63 characters",
        ),
        Value::BackendName => {
            let own = text(format!(r"({V4}|\[{V6}\]):{PORT}"));
            let schema = json!({ "anyOf": [reference("name"), reference("address"), own] });
            ("backend-name", schema, "a name, or what the backend would be called without one")
        }
        Value::InterfaceName => {
            ("interface-name", any(r"[^/:\s]{1,15}".to_owned()), "what `ip link` shows, such as `eth0`")
        }
        Value::Address => (
            "address",
            text(format!("{V4}|{V6}")),
            "IPv4 or IPv6, no name, no zone, such as `10.0.0.11` or `2001:db8::11`",
        ),
        Value::Mac => (
            "mac",
            text("[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}".to_owned()),
            "six pairs of hexadecimal digits, such as `02:00:00:00:00:0a`, of one host",
        ),
        Value::Endpoint => (
            "endpoint",
            text(format!(
                r"({V4}(/([1-9]|[12][0-9]|3[0-2]))?|\[{V6}\](/([1-9][0-9]?|1[01][0-9]|12[0-8]))?):({PORT}(-{PORT})?|0+)"
            )),
            "address and port, such as `203.0.113.10:443` or `\"[2001:db8::10]:443\"`, IPv6 in brackets and quotes; a range \
             of ports as `8000-8100`, any as `0`, a prefix as `203.0.113.0/24:443` or `\"[2001:db8:f::]/64:443\"`",
        ),
        Value::Socket => (
            "socket",
            text(format!(r"({V4}|\[{V6}(%[0-9]+)?\]):{PORT}")),
            "address and port to serve on, such as `127.0.0.1:9480`",
        ),
        Value::Prefix4 => {
            ("ipv4-prefix", text(format!("{V4}(/([1-9]|[12][0-9]|3[0-2]))?")), "such as `192.0.2.0/24`, host bits zero")
        }
        Value::Prefix6 => (
            "ipv6-prefix",
            text(format!("{V6}(/([1-9][0-9]?|1[01][0-9]|12[0-8]))?")),
            "such as `2001:db8::/64`, host bits zero",
        ),
        Value::Method => ("method", text("[A-Z][!#$%&'*+.^_`|~0-9A-Z-]*".to_owned()), "such as `GET` or `HEAD`"),
        Value::RequestPath => ("request-path", text("/[!-\"$-~]*".to_owned()), "such as `/healthz?full=1`"),
        Value::HostName => ("host-name", any("[!-\"$-.0->A-~]+".to_owned()), "such as `www.example.com`"),
        Value::Headers => {
            let schema = json!({
                "type": "object",
                "propertyNames": { "pattern": format!("^{TOKEN}$") },
                "additionalProperties": any("([!-~]([ -~]*[!-~])?)?".to_owned()),
            });
            ("headers", schema, "names and values, without `Host` and what belongs to the check itself")
        }
        Value::StatusCodes => {
            let code = "[ ]*[1-5][0-9]{2}[ ]*";
            let range = text(format!("{code}(-{code})?"));
            let schema = json!({ "anyOf": [{ "type": "integer", "minimum": 100, "maximum": 599 }, range] });
            ("status-codes", schema, "such as `200` or `200-299`")
        }
        Value::ServerName => (
            "server-name",
            any(r"[0-9A-Za-z_]([0-9A-Za-z_.-]{0,251}[0-9A-Za-z_])?".to_owned()),
            "such as `www.example.com`",
        ),
        Value::AlpnName => ("alpn-name", any("[!-~]{1,255}".to_owned()), "such as `h2` or `http/1.1`"),
        Value::Text => ("text", any(r"[^\n\r]{1,4096}".to_owned()), "a text of one line"),
        Value::Pattern => {
            ("pattern", any(r"[^\n\r]{1,4096}".to_owned()), "a regular expression, such as `\"status\": *\"up\"`")
        }
        Value::DomainName => ("domain-name", any(r"[!-~]{1,255}".to_owned()), "such as `www.example.com`"),
        Value::Bytes => (
            "bytes",
            any(r"([^\\\n\r]|\\[nrt\\]|\\x[0-9A-Fa-f]{2}){1,4096}".to_owned()),
            "a text in which `\\n`, `\\r`, `\\t`, `\\\\` and `\\x00` stand for bytes",
        ),
        Value::Url => (
            "url",
            text("http://([0-9A-Za-z_.-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?(/[!-\"$-~]*)?".to_owned()),
            "such as `http://127.0.0.1:9000/sluice`",
        ),
        Value::GrpcService => ("grpc-service", any("[!-~]{1,127}".to_owned()), "such as `shop.v1.Cart`"),
        other => unreachable!("{other:?} is no text"),
    };
    schema["description"] = json!(form);
    (name.to_owned(), schema)
}
