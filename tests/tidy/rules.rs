//! One function per rule: sources in, complaints out.

type Source = (String, String);

const LONGEST_FILE: usize = 500;

pub(crate) fn shape(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, text) in sources {
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            broken.push(format!("{name}: {lines} lines, {LONGEST_FILE} at most"));
        }
        if !text.starts_with("//!") {
            broken.push(format!("{name}: the first line says what the file is (`//!`)"));
        }
        let stem = name.rsplit('/').next().unwrap_or("").trim_end_matches(".rs");
        if ["utils", "util", "common", "manager", "helpers", "misc"].contains(&stem) {
            broken.push(format!("{name}: a file is named after what it holds"));
        }
    }
    broken
}

/// (where, what must not be named there, why)
const IMPORTS: &[(&str, &str, &str)] = &[
    ("node/src/proxy/", "crate::agent", "agent and proxy meet only in the snapshot"),
    ("node/src/agent/", "crate::proxy", "agent and proxy meet only in the snapshot"),
    ("node/src/balance/", "tokio", "balance is pure"),
    ("node/src/balance/", "crate::proxy", "balance is pure"),
    ("node/src/balance/", "crate::mesh", "balance is pure"),
    ("node/src/balance/", "crate::snapshot", "balance is asked of hosts and loads, whoever they belong to"),
    ("node/src/mesh/", "crate::proxy", "mesh carries, it does not proxy"),
    ("node/src/mesh/", "crate::agent", "mesh carries, it does not decide"),
    ("node/src/capture/", "crate::agent", "capture knows the kernel and no agent"),
    ("certs/src/", "tokio", "certs is pure"),
    ("policy/src/", "tokio", "policy is pure"),
];

pub(crate) fn imports(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, text) in sources {
        for (place, word, why) in IMPORTS {
            if !name.starts_with(place) {
                continue;
            }
            for (number, line) in imported(text) {
                if names(&line, word) {
                    broken.push(format!("{name}:{number}: `{word}`: {why}"));
                }
            }
        }
    }
    broken
}

/// The lines of a file's code, each `use` as one line for every path that it imports.
fn imported(text: &str) -> Vec<(usize, String)> {
    let (mut lines, mut open) = (Vec::new(), None::<(usize, String)>);
    for (number, line) in code(text) {
        let line = line.trim();
        let statement = match &mut open {
            Some((_, statement)) => {
                statement.push_str(line);
                statement
            }
            None if line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ") => {
                let (_, paths) = line.split_once("use ").unwrap_or_default();
                &mut open.insert((number, paths.to_owned())).1
            }
            None => {
                lines.push((number, line.to_owned()));
                continue;
            }
        };
        if statement.ends_with(';') {
            let (number, statement) = open.take().unwrap_or_default();
            lines.extend(expanded("", statement.trim_end_matches(';')).into_iter().map(|path| (number, path)));
        }
    }
    lines
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expanded(before: &str, tree: &str) -> Vec<String> {
    let (mut paths, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    let mut branches = Vec::new();
    for (at, letter) in tree.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                branches.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&tree[start..]);
    for branch in branches.into_iter().map(str::trim).filter(|branch| !branch.is_empty()) {
        match branch.split_once('{') {
            Some((stem, inner)) => {
                let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
                paths.extend(expanded(&format!("{before}{stem}"), inner));
            }
            None => paths.push(format!("{before}{branch}")),
        }
    }
    paths
}

fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !inside(before) && !inside(after)
    })
}

/// Lines that are no comment and of no item for tests (`#[cfg(test)]` at the start of a line).
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut within = Within::Code;
    text.lines().enumerate().filter_map(move |(number, line)| {
        within = match within {
            Within::Code | Within::Past if line.starts_with("#[cfg(test)]") => Within::Head,
            Within::Head if line.starts_with("#[") || line.starts_with("//") => Within::Head,
            Within::Head if line.ends_with('{') => Within::Body,
            Within::Head if line.ends_with(';') || line.ends_with('}') => Within::Past,
            Within::Body if line.starts_with('}') => Within::Past,
            Within::Code | Within::Past => Within::Code,
            inside @ (Within::Head | Within::Body) => inside,
        };
        let counts = matches!(within, Within::Code) && !line.trim_start().starts_with("//");
        counts.then_some((number + 1, line))
    })
}

/// Where a line stands: in what counts, or in an item for tests: before its brace, in its braces, on its last line.
#[derive(Clone, Copy)]
enum Within {
    Code,
    Head,
    Body,
    Past,
}

/// (word, the only places that may name it)
const OWNERS: &[(&str, &[&str])] = &[
    ("chitchat::", &["membership/src/gossip"]),
    ("tokio::spawn", &["node/src/tasks.rs"]),
    ("SystemTime::now", &["node/src/clock.rs"]),
    ("redb::", &["node/src/agent/store"]),
    // It asks for no redemption: what only tests and thieves do.
    ("issue_node_unchecked", &["certs/src/ca.rs", "node/src/mesh/contract"]),
];

pub(crate) fn owners(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, text) in sources.iter().filter(|(name, _)| !is_test(name)) {
        for (word, places) in OWNERS {
            if places.iter().any(|place| name.starts_with(place)) {
                continue;
            }
            for (number, _) in code(text).filter(|(_, line)| line.contains(word)) {
                broken.push(format!("{name}:{number}: `{word}` belongs to {}", places.join(", ")));
            }
        }
    }
    broken
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs") || name.ends_with("testing.rs")
}

pub(crate) fn floor_plans(sources: &[Source]) -> Vec<String> {
    let plans = sources.iter().filter(|(name, _)| name.ends_with("src/lib.rs"));
    let mut broken = Vec::new();
    for (name, text) in plans {
        for (number, line) in code(text) {
            if line.starts_with("fn ")
                || line.starts_with("impl")
                || line.starts_with("pub fn ")
                || line.starts_with("pub struct ")
            {
                broken.push(format!("{name}:{number}: a lib.rs is a floor plan"));
            }
        }
    }
    broken
}

pub(crate) fn stubs(sources: &[Source]) -> Vec<String> {
    let words =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("// TO", "DO"), concat!("// FIX", "ME")];
    let mut broken = Vec::new();
    for (name, text) in sources {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                broken.push(format!("{name}:{}: unfinished: {}", number + 1, line.trim()));
            }
        }
    }
    broken
}

/// Rooms that the architecture does not name in backquotes; each directory of `tests` is one.
pub(crate) fn rooms(sources: &[Source], architecture: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, _) in sources {
        let tests = name.strip_prefix("tests/").map(|rest| ("tests", rest));
        let Some((place, rest)) = tests.or_else(|| name.split_once("/src/")) else { continue };
        let room = rest.split('/').next().unwrap_or(rest).trim_end_matches(".rs");
        let complaint = format!("{place}/{room}: not in node/ARCHITECTURE.md as `{room}`");
        if !["lib", "main", "mod", "error", "testing"].contains(&room)
            && !architecture.contains(&format!("`{room}`"))
            && !missing.contains(&complaint)
        {
            missing.push(complaint);
        }
    }
    missing
}

/// Structs of `config/raw.rs` whose fields are sections, and stand as headings.
const OF_SECTIONS: [&str; 2] = ["File", "Fragment"];

/// Keys of the configuration of which its page has no row in the section of their table.
pub(crate) fn configuration(raw: &str, page: &str) -> Vec<String> {
    let sections: Vec<(&str, &str)> = page.split("\n## ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    let (mut table, mut renamed, mut broken) = ("", None, Vec::new());
    for line in raw.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub(super) struct ") {
            table = name.split(' ').next().unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("#[serde(rename = \"") {
            renamed = rest.split('"').next();
        } else if let Some((key, _)) = line.strip_prefix("pub(super) ").and_then(|field| field.split_once(": "))
            && !key.contains(' ')
        {
            let key = renamed.take().unwrap_or(key);
            let section = if OF_SECTIONS.contains(&table) { key.to_owned() } else { table.to_lowercase() };
            let heading = match section.as_str() {
                "port" => "`ports` of a `[[service]]`".to_owned(),
                "check" => "`check` of a `[[service]]`".to_owned(),
                "outbound" | "service" | "upstream" => format!("`[[{section}]]`"),
                other => format!("`[{other}]`"),
            };
            let found = sections.iter().find(|(title, _)| *title == heading);
            let is_row = |text: &str| OF_SECTIONS.contains(&table) || text.contains(&format!("\n| `{key}` |"));
            if !found.is_some_and(|(_, text)| is_row(text)) {
                broken.push(format!("node/docs/configuration.md: `{key}` has no row under {heading}"));
            }
        }
    }
    broken
}
