//! What a collector of OTLP gets, read by a reader of its own: what Skein writes is not read by what wrote it.

use std::collections::BTreeMap;

/// A span as a collector sees it; ids in hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: String,
    /// The span.
    pub id: String,
    /// Its parent; empty for none.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// 2 server, 3 client.
    pub kind: u64,
    /// Nanoseconds of Unix time.
    pub time: (u64, u64),
    /// 2 is an error.
    pub status: u64,
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// What its resource says.
    pub resource: BTreeMap<String, String>,
}

/// A record of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its text.
    pub body: String,
    /// The trace that it belongs to, in hexadecimal.
    pub trace: String,
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// What its resource says.
    pub resource: BTreeMap<String, String>,
}

/// The spans of an `ExportTraceServiceRequest`.
pub fn spans(message: &[u8]) -> Vec<Span> {
    items(message, |bytes, resource| {
        let mut span = Span { resource: resource.clone(), ..Span::default() };
        for (number, value) in fields(bytes) {
            match (number, value) {
                (1, Value::Bytes(id)) => span.trace = hex(id),
                (2, Value::Bytes(id)) => span.id = hex(id),
                (4, Value::Bytes(id)) => span.parent = hex(id),
                (5, Value::Bytes(name)) => span.name = text(name),
                (6, Value::Number(kind)) => span.kind = kind,
                (7, Value::Number(start)) => span.time.0 = start,
                (8, Value::Number(end)) => span.time.1 = end,
                (9, Value::Bytes(pair)) => span.attributes.extend(attribute(pair)),
                (15, Value::Bytes(status)) => {
                    span.status = fields(status).into_iter().find_map(|field| field.1.number(field.0, 3)).unwrap_or(0);
                }
                (_, Value::Bytes(_) | Value::Number(_)) => {}
            }
        }
        span
    })
}

/// The records of an `ExportLogsServiceRequest`.
pub fn records(message: &[u8]) -> Vec<Record> {
    items(message, |bytes, resource| {
        let mut record = Record { resource: resource.clone(), ..Record::default() };
        for (number, value) in fields(bytes) {
            match (number, value) {
                (5, Value::Bytes(body)) => record.body = any(body),
                (6, Value::Bytes(pair)) => record.attributes.extend(attribute(pair)),
                (9, Value::Bytes(id)) => record.trace = hex(id),
                (_, Value::Bytes(_) | Value::Number(_)) => {}
            }
        }
        record
    })
}

/// Resource by resource, scope by scope, item by item.
fn items<T>(message: &[u8], read: impl Fn(&[u8], &BTreeMap<String, String>) -> T) -> Vec<T> {
    let mut found = Vec::new();
    for of_resource in parts(message, 1) {
        let resource = parts(of_resource, 1)
            .first()
            .map(|resource| parts(resource, 1).into_iter().filter_map(attribute).collect::<BTreeMap<_, _>>());
        let resource = resource.unwrap_or_default();
        let scopes = parts(of_resource, 2);
        found.extend(scopes.iter().flat_map(|scope| parts(scope, 2)).map(|item| read(item, &resource)));
    }
    found
}

enum Value<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

impl Value<'_> {
    fn number(&self, own: u64, wanted: u64) -> Option<u64> {
        match self {
            Self::Number(number) if own == wanted => Some(*number),
            Self::Number(_) | Self::Bytes(_) => None,
        }
    }
}

/// The fields of a message by their numbers; what is broken ends it.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut bytes) {
        let value = match tag & 7 {
            0 => varint(&mut bytes).map(Value::Number),
            1 => take(&mut bytes, 8)
                .map(|fixed| Value::Number(fixed.iter().rev().fold(0, |all, byte| (all << 8) | u64::from(*byte)))),
            2 => {
                varint(&mut bytes).and_then(|length| take(&mut bytes, usize::try_from(length).ok()?)).map(Value::Bytes)
            }
            5 => take(&mut bytes, 4)
                .map(|fixed| Value::Number(fixed.iter().rev().fold(0, |all, byte| (all << 8) | u64::from(*byte)))),
            _ => None,
        };
        match value {
            Some(value) => found.push((tag >> 3, value)),
            None => return found,
        }
    }
    found
}

fn parts(message: &[u8], wanted: u64) -> Vec<&[u8]> {
    let of = |(number, value)| match value {
        Value::Bytes(bytes) if number == wanted => Some(bytes),
        Value::Bytes(_) | Value::Number(_) => None,
    };
    fields(message).into_iter().filter_map(of).collect()
}

fn take<'m>(bytes: &mut &'m [u8], count: usize) -> Option<&'m [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn attribute(pair: &[u8]) -> Option<(String, String)> {
    let key = parts(pair, 1).first().map(|key| text(key))?;
    Some((key, parts(pair, 2).first().map(|value| any(value)).unwrap_or_default()))
}

fn any(value: &[u8]) -> String {
    parts(value, 1).first().map(|value| text(value)).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
