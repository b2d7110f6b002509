//! The schema of each kind and its parser say the same, of Istio's documents and of documents made from the schema.

use std::{collections::BTreeMap, path::PathBuf};

use policy::{Kind, Severity, codes, parse, schema};
use serde_json::{Map, Value, json};

/// Judges a value by the part of JSON Schema that `policy::schema` writes; the complaint names the place. References lead
/// into `whole`.
fn validate(whole: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolved(whole, schema);
    let Value::Object(rules) = schema else {
        return if schema == &json!(true) { Ok(()) } else { Err(format!("{at}: nothing is allowed here")) };
    };
    for (rule, wanted) in rules {
        let holds = match rule.as_str() {
            "$schema" | "title" | "format" => true,
            "const" => value == wanted,
            "enum" => wanted.as_array().is_some_and(|words| words.contains(value)),
            "type" => is(wanted, value) || list(wanted).iter().any(|one| is(one, value)),
            "minimum" => value.as_f64().is_none_or(|number| Some(number) >= wanted.as_f64()),
            "maximum" => value.as_f64().is_none_or(|number| Some(number) <= wanted.as_f64()),
            "minLength" => {
                value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap_or(u64::MAX))
            }
            "pattern" => {
                let pattern = regex::Regex::new(text(wanted)).expect("a pattern is a regular expression");
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "anyOf" => list(wanted).iter().any(|one| validate(whole, one, value, at).is_ok()),
            "allOf" => list(wanted).iter().all(|one| validate(whole, one, value, at).is_ok()),
            "required" => {
                value.as_object().is_none_or(|fields| list(wanted).iter().all(|name| fields.contains_key(text(name))))
            }
            "items" => {
                let mut items = list(value).iter().enumerate();
                items.try_for_each(|(index, item)| validate(whole, wanted, item, &format!("{at}[{index}]")))?;
                true
            }
            "properties" | "additionalProperties" => {
                inside(whole, rules, value, at)?;
                true
            }
            other => panic!("the validator does not know `{other}`"),
        };
        if !holds {
            return Err(format!("{at}: {value} is against {rule} {wanted}"));
        }
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a reference leads to.
fn resolved<'s>(whole: &'s Value, schema: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => whole.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} leads nowhere")),
        None => schema,
    }
}

fn inside(whole: &Value, rules: &Map<String, Value>, value: &Value, at: &str) -> Result<(), String> {
    let Value::Object(fields) = value else { return Ok(()) };
    for (name, field) in fields {
        let known = rules.get("properties").and_then(|properties| properties.get(name));
        let Some(known) = known.or_else(|| rules.get("additionalProperties").filter(|more| **more != json!(false)))
        else {
            return Err(format!("{at}: unknown field {name}"));
        };
        validate(whole, known, field, &format!("{at}.{name}"))?;
    }
    Ok(())
}

fn is(name: &Value, value: &Value) -> bool {
    match text(name) {
        // A list of types is not one of them.
        "" => false,
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        // As in the schema's dialect, 1.0 is whole.
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("the validator does not know the type `{other}`"),
    }
}

fn files(folder: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the corpus is readable").flatten().map(|entry| entry.path()) {
        if entry.is_dir() {
            files(entry, found);
        } else if entry.extension().is_some_and(|end| end == "yaml") {
            found.push(entry);
        }
    }
}

#[test]
fn every_valid_document_of_the_corpus_validates() {
    let Some(root) = super::corpus() else { return };
    let schemas: BTreeMap<Kind, Value> = Kind::all().map(|kind| (kind, schema::of(kind))).collect();
    let (mut counts, mut wrong, mut found) = (BTreeMap::<Kind, usize>::new(), Vec::new(), Vec::new());
    files(root, &mut found);
    for file in found {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for located in parse::yaml("f", &text, "default").documents {
            let kind = located.document.id.kind;
            let document = parse::compact(&located.json).expect("a body is JSON");
            let document = serde_json::from_str(&document).expect("a body is JSON");
            *counts.entry(kind).or_default() += 1;
            if let Err(complaint) = validate(&schemas[&kind], &schemas[&kind], &document, "") {
                wrong.push(format!("{} {}: {complaint}", file.display(), located.document.id));
            }
        }
    }
    println!("documents that validate: {counts:?}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(counts.len() > 1, "{counts:?}");
}

/// A value that a schema allows: the first form, objects with what must be there.
fn sample(whole: &Value, schema: &Value) -> Value {
    let Value::Object(rules) = resolved(whole, schema) else { return json!({}) };
    if let Some(only) = rules.get("const") {
        return only.clone();
    }
    if let Some(words) = rules.get("enum") {
        return words[0].clone();
    }
    if let Some(forms) = rules.get("anyOf") {
        return sample(whole, &forms[0]);
    }
    let name = rules.get("type").map(|one| if one.is_array() { &one[0] } else { one });
    match name.and_then(Value::as_str) {
        Some("object") => {
            let either = rules.get("allOf").and_then(Value::as_array).into_iter().flatten();
            let either = either.map(|one| &one["anyOf"][0]["required"][0]);
            let required = rules.get("required").and_then(Value::as_array).into_iter().flatten().chain(either);
            let fields = required.map(text);
            Value::Object(fields.map(|name| (name.to_owned(), sample(whole, &rules["properties"][name]))).collect())
        }
        Some("array") => json!([sample(whole, &rules["items"])]),
        Some("string") if rules.contains_key("pattern") => json!("1s"),
        Some("string") => json!("a"),
        Some("boolean") => json!(true),
        Some("integer" | "number") => rules.get("maximum").cloned().unwrap_or(json!(1)),
        other => panic!("no sample of {other:?}"),
    }
}

/// Sees an object's schema, and how a value for it becomes a whole document.
type See<'s> = &'s mut dyn FnMut(&Value, &dyn Fn(Value) -> Value);

/// The objects within a schema, each as the ways to it: a function of what stands there to the whole document.
fn objects(whole: &Value, schema: &Value, wrap: &dyn Fn(Value) -> Value, see: See<'_>) {
    let forms = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    for form in forms {
        objects(whole, form, wrap, see);
    }
    if let Some(items) = schema.get("items") {
        objects(whole, items, &|item| wrap(json!([item])), see);
    }
    if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
        objects(whole, inner, &|value| wrap(json!({"a": value})), see);
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    see(schema, wrap);
    for (name, property) in properties {
        let around = |value| {
            let mut object = sample(whole, schema);
            object[name] = value;
            wrap(object)
        };
        objects(whole, property, &around, see);
    }
}

#[test]
fn what_the_schema_allows_the_parser_knows_and_nothing_else() {
    let unknown = |document: &Value| -> Vec<String> {
        let parsed = parse::yaml("f", &document.to_string(), "default");
        let of_field = parsed.problems.into_iter().filter(|problem| {
            let form = problem.code == codes::WRONG_TYPE && problem.message.starts_with("expected ");
            problem.severity == Severity::Error && (form || problem.code == codes::UNKNOWN_FIELD)
        });
        of_field.map(|problem| problem.to_string()).collect()
    };
    let mut seen = BTreeMap::new();
    for kind in Kind::all() {
        let schema = schema::of(kind);
        let count = seen.entry(kind).or_insert(0_usize);
        objects(&schema, &schema, &|document| document, &mut |object, wrap| {
            let plain = sample(&schema, object);
            let mut strange = plain.clone();
            strange["noSuchField"] = json!(1);
            let document = wrap(strange);
            assert!(unknown(&document).iter().any(|line| line.contains("noSuchField")), "{kind}: {document}");
            assert!(validate(&schema, &schema, &document, "").is_err(), "{kind}: {document}");
            for (name, property) in object["properties"].as_object().unwrap() {
                let mut with = plain.clone();
                if with.get(name).is_none() {
                    // A field stands in one spelling only.
                    with.as_object_mut().unwrap().retain(|own, _| own.to_lowercase() != name.replace('_', ""));
                }
                with[name] = sample(&schema, property);
                let document = wrap(with);
                assert_eq!(validate(&schema, &schema, &document, ""), Ok(()), "{kind}: {document}");
                assert_eq!(unknown(&document), Vec::<String>::new(), "{kind}: {document}");
                *count += 1;
            }
        });
    }
    println!("fields tried: {seen:?}");
    assert!(seen[&Kind::VirtualService] > 60, "{seen:?}");
}
