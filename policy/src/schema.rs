//! JSON Schema (2020-12) of every kind, made of what the decoders ask. Says what one value may be on its own; what several
//! values mean together is `policy lint`'s.

use serde_json::{Map, Value, json};

use crate::{
    Kind,
    decode::{Asked, Record},
    parse,
};

/// A duration in Go's syntax.
const DURATION: &str = r"^\+?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+$";
/// The same, where 0 has a meaning: it needs no unit.
const DURATION_OR_ZERO: &str = r"^(0|\+?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)$";

/// The schema of a kind's documents.
pub fn of(kind: Kind) -> Value {
    let (metadata, spec, versions) = parse::asked_of(kind);
    let mut properties = Map::new();
    properties.insert("apiVersion".into(), json!({"enum": versions}));
    properties.insert("kind".into(), json!({"const": kind.as_str()}));
    properties.insert("metadata".into(), value(&metadata, false));
    let mut required = vec!["apiVersion", "kind", "metadata"];
    if let Some(spec) = spec {
        properties.insert("spec".into(), value(&spec, false));
        required.push("spec");
    }
    // What Kubernetes writes there is left alone.
    properties.insert("status".into(), json!(true));
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.as_str(),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    add_snake_case(&mut schema, "#");
    schema
}

/// Lets every field be written in snake_case too, as the decoders do.
fn add_snake_case(schema: &mut Value, pointer: &str) {
    match schema {
        Value::Array(forms) => {
            for (index, form) in forms.iter_mut().enumerate() {
                add_snake_case(form, &format!("{pointer}/{index}"));
            }
        }
        Value::Object(rules) => {
            if let Some(Value::Object(properties)) = rules.get_mut("properties") {
                for (name, property) in properties.iter_mut() {
                    add_snake_case(property, &format!("{pointer}/properties/{name}"));
                }
                let names: Vec<String> = properties.keys().filter(|name| snake_case(name) != **name).cloned().collect();
                for name in &names {
                    let target = format!("{pointer}/properties/{name}");
                    properties.insert(snake_case(name), json!({"$ref": target}));
                }
                either_required(rules, &names);
            }
            for inner in ["items", "additionalProperties", "anyOf"] {
                if let Some(form) = rules.get_mut(inner) {
                    add_snake_case(form, &format!("{pointer}/{inner}"));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Where a field with two spellings must be there, one of them suffices.
fn either_required(rules: &mut Map<String, Value>, names: &[String]) {
    let Some(Value::Array(required)) = rules.get_mut("required") else { return };
    let (both, one): (Vec<Value>, Vec<Value>) =
        required.drain(..).partition(|name| names.iter().any(|own| name.as_str() == Some(own)));
    *required = one;
    let either = |name: &Value| {
        let snake = snake_case(name.as_str().unwrap_or_default());
        json!({"anyOf": [{"required": [name]}, {"required": [snake]}]})
    };
    if !both.is_empty() {
        rules.insert("allOf".into(), both.iter().map(either).collect());
    }
}

fn snake_case(name: &str) -> String {
    let letters = name.chars().flat_map(|letter| {
        let underscore = letter.is_ascii_uppercase().then_some('_');
        underscore.into_iter().chain([letter.to_ascii_lowercase()])
    });
    letters.collect()
}

/// What a value may be; `nullable` where null counts as absent.
fn value(record: &Record, nullable: bool) -> Value {
    let nullable = nullable || record.asked.contains(&Asked::Null);
    let mut forms = forms(record);
    match forms.as_mut_slice() {
        [] => json!(true),
        [only] => {
            if nullable {
                allow_null(only);
            }
            only.take()
        }
        [..] => {
            forms.extend(nullable.then(|| json!({"type": "null"})));
            json!({"anyOf": forms})
        }
    }
}

/// The alternatives that a record leaves; none for anything.
fn forms(record: &Record) -> Vec<Value> {
    if record.asked.contains(&Asked::Anything) {
        return Vec::new();
    }
    let words: Vec<&str> = record
        .asked
        .iter()
        .filter_map(|asked| if let Asked::Word(word) = asked { Some(*word) } else { None })
        .collect();
    let mut forms = Vec::new();
    if !words.is_empty() {
        forms.push(json!({"enum": words}));
    }
    let filled = record.asked.contains(&Asked::FilledText);
    let bounded = record.asked.iter().any(|asked| matches!(asked, Asked::Number(Some(_))));
    for asked in &record.asked {
        match asked {
            Asked::Text if !words.is_empty() || filled => {}
            Asked::Text => forms.push(json!({"type": "string"})),
            Asked::FilledText => forms.push(json!({"type": "string", "minLength": 1})),
            Asked::Boolean => forms.push(json!({"type": "boolean"})),
            Asked::Integer(least, most) => {
                forms.push(json!({"type": "integer", "minimum": least, "maximum": most}));
                // As in protobuf's JSON.
                forms.push(json!({"type": "string", "pattern": "^[+-]?[0-9]+$"}));
            }
            Asked::Number(None) if bounded => {}
            Asked::Number(None) => forms.push(json!({"type": "number"})),
            Asked::Number(Some((least, most))) => {
                forms.push(json!({"type": "number", "minimum": least, "maximum": most}));
            }
            Asked::Duration(zero) => {
                let pattern = if *zero { DURATION_OR_ZERO } else { DURATION };
                forms.push(json!({"type": "string", "pattern": pattern}));
            }
            Asked::Time => forms.push(json!({"type": "string", "format": "date-time"})),
            Asked::List => forms.push(json!({"type": "array", "items": inner(record)})),
            Asked::Map => forms.push(json!({"type": "object", "additionalProperties": inner(record)})),
            Asked::Object => forms.push(object(record)),
            Asked::Anything | Asked::Null | Asked::Word(_) | Asked::Refused => {}
        }
    }
    forms
}

fn inner(record: &Record) -> Value {
    record.inner.as_ref().map_or(json!(true), |inner| value(inner, false))
}

fn object(record: &Record) -> Value {
    let accepted = record.fields.iter().filter(|(_, (_, field))| !field.asked.contains(&Asked::Refused));
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, (is_required, field)) in accepted {
        properties.insert((*name).to_owned(), value(field, !is_required));
        if *is_required {
            required.push(*name);
        }
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn allow_null(form: &mut Value) {
    if let Some(Value::Array(words)) = form.get_mut("enum") {
        words.push(Value::Null);
    } else if let Some(own) = form.get_mut("type") {
        *own = json!([own.take(), "null"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::unknown;

    #[test]
    fn every_field_has_a_form() {
        for kind in Kind::all() {
            let (metadata, spec, versions) = parse::asked_of(kind);
            assert!(!versions.is_empty());
            for record in [Some(metadata), spec].into_iter().flatten() {
                assert_eq!(unknown(&record), Vec::<String>::new(), "{kind}: decoders that hide what a field is");
            }
        }
    }

    #[test]
    fn the_schema_says_what_the_decoder_reads() {
        let schema = of(Kind::VirtualService);
        let route = &schema["properties"]["spec"]["properties"]["http"]["items"]["properties"];
        let uri = &route["match"]["items"]["properties"]["uri"]["properties"];
        assert_eq!(uri["exact"], json!({"type": ["string", "null"]}), "also where fields exclude each other");
        assert_eq!(uri["regex"], json!({"type": ["string", "null"]}));
        let abort = &route["fault"]["properties"]["abort"]["properties"];
        assert_eq!(abort["httpStatus"]["anyOf"][0], json!({"type": "integer", "minimum": 200, "maximum": 600}));
        let target = "#/properties/spec/properties/http/items/properties/fault/properties/abort/properties/httpStatus";
        assert_eq!(abort["http_status"], json!({"$ref": target}));
        assert_eq!(abort.get("http2Error"), None, "Istio itself refuses it");
        let words = json!({"enum": ["", "http", "https", null]});
        assert_eq!(route["redirect"]["properties"]["scheme"], words);
        let destination = &route["route"]["items"]["properties"]["destination"];
        assert_eq!(destination["required"], json!(["host"]));
        assert_eq!(destination["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["metadata"]["required"], json!(["name"]));
        let key = &of(Kind::RoleSet)["properties"]["spec"]["properties"]["keys"]["items"];
        assert_eq!(key["required"], json!(["name"]));
        assert_eq!(key["allOf"], json!([{"anyOf": [{"required": ["publicKey"]}, {"required": ["public_key"]}]}]));
        let versions = json!(["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"]);
        assert_eq!(schema["properties"]["apiVersion"]["enum"], versions);
    }
}
