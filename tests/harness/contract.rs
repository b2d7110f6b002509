//! The contract of `-o json`: the types that `node/docs/json.md` states, and where an answer is not of them.

use std::{collections::BTreeMap, iter::Peekable, path::Path, str::Chars};

use serde_json::Value;

/// What commands look at, to be run at a node `web` beside `shop/reviews` of a mesh that has had requests and a push.
pub const LISTINGS: &[&str] = &[
    "status",
    "status --mesh",
    "members",
    "members --reach",
    "members web",
    "ping v1 --count 1",
    "services",
    "services shop/reviews",
    "endpoints",
    "outliers",
    "limits",
    "top",
    "events",
    "events --here",
    "routes",
    "explain http://reviews.shop:9080/",
    "wait --nodes 3",
    "check",
    "check --list",
    "policy lint --list",
    "policy list",
    "policy get VirtualService reviews -n shop",
    "policy log",
    "policy show VirtualService reviews -n shop",
    "policy diff VirtualService reviews -n shop",
    "policy conflicts",
    "policy proposals",
    "policy schema VirtualService",
    "policy audit verify",
    "policy audit log",
    "policy export",
    "service list",
    "secret list",
    "operator list",
    "ca bundle",
    "ca rotate status",
    "identity list",
];

/// Lists of objects in what [`LISTINGS`] print that need a scenario of their own to have a row: the one that makes it calls `written`.
pub const ROWS_ELSEWHERE: &[(&str, &str)] = &[
    ("outliers", "outliers.rs"),
    ("policy conflicts", "history.rs"),
    ("policy plan.nodes", "plan.rs"),
    ("policy plan.routes", "plan.rs"),
    ("policy plan.workloads", "plan.rs"),
    ("policy proposals", "proposals.rs"),
    ("run.plaintext", "plaintext.rs"),
    ("run.upstream", "tcp.rs"),
    ("secret list", "contract.rs"),
    ("status (2).ejected", "outliers.rs"),
    ("status (2).problems", "gateway.rs"),
    ("status.gateways", "gateway.rs"),
    ("status.plaintext", "plaintext.rs"),
    ("status.problems", "gateway.rs"),
    ("top.connections", "tcp.rs"),
];

/// What is written about each command.
#[derive(Debug)]
pub struct Contract {
    /// By command, without `skein`; several where flags change what is printed.
    commands: BTreeMap<String, Vec<Type>>,
    shapes: BTreeMap<String, Type>,
}

#[derive(Debug, Clone, PartialEq)]
enum Type {
    Any,
    Text,
    Time,
    Integer,
    Number,
    Boolean,
    Null,
    Word(String),
    Named(String),
    List(Box<Type>),
    Map(Box<Type>),
    Object(Vec<Field>),
    Either(Vec<Type>),
}

#[derive(Debug, Clone, PartialEq)]
struct Field {
    /// Empty: the fields of another type stand here.
    name: String,
    optional: bool,
    of: Type,
}

impl Contract {
    /// What the documentation says.
    ///
    /// # Panics
    /// When it cannot be read, or says what is no type.
    pub fn read() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/docs/json.md");
        Self::of(&std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    }

    fn of(text: &str) -> Self {
        let (mut commands, mut shapes) = (BTreeMap::<String, Vec<Type>>::new(), BTreeMap::new());
        let (mut heading, mut lines) = (String::new(), text.lines());
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix("### skein ").or(line.strip_prefix("## ")) {
                title.clone_into(&mut heading);
            } else if line == "```ts" {
                let block = lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n");
                let mut reader = Reader::of(&block);
                if heading == "Shapes" {
                    shapes.extend(reader.definitions());
                } else {
                    commands.entry(heading.clone()).or_default().push(reader.whole());
                }
            }
        }
        Self { commands, shapes }
    }

    /// Every command that it speaks of.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.commands.keys().map(String::as_str)
    }

    /// The command that a line begins with.
    ///
    /// # Panics
    /// When nothing is written about it.
    pub fn command<'c>(&'c self, line: &str) -> &'c str {
        let begins =
            |command: &&str| line.strip_prefix(command).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        let longest = self.commands().filter(begins).max_by_key(|command| command.len());
        longest.unwrap_or_else(|| panic!("`skein {line}`: node/docs/json.md does not say what it prints"))
    }

    /// Where what a command printed is not what is written; nothing if it is.
    ///
    /// # Panics
    /// When nothing is written about the command.
    pub fn complaints(&self, line: &str, value: &Value) -> Vec<String> {
        let command = self.command(line);
        let each = self.commands[command].iter().map(|of| self.compare(of, value, "")).min_by_key(Vec::len);
        each.unwrap_or_default().into_iter().map(|what| format!("`skein {line}`: {what}")).collect()
    }

    /// The lists of objects in what a command printed, each by the name of its rows' type or else by the command and its place (`(2)` after
    /// the command is its second form), with true where there was a row to compare.
    ///
    /// # Panics
    /// When nothing is written about the command.
    pub fn lists(&self, line: &str, value: &Value) -> BTreeMap<String, bool> {
        let command = self.command(line);
        let mut found = BTreeMap::new();
        let forms = (1..).zip(&self.commands[command]);
        if let Some((form, of)) = forms.min_by_key(|(_, of)| self.compare(of, value, "").len()) {
            let name = if form == 1 { command.to_owned() } else { format!("{command} ({form})") };
            self.look(of, value, &name, &mut found);
        }
        found
    }

    fn look(&self, of: &Type, value: &Value, at: &str, found: &mut BTreeMap<String, bool>) {
        match of {
            Type::Any
            | Type::Text
            | Type::Time
            | Type::Integer
            | Type::Number
            | Type::Boolean
            | Type::Null
            | Type::Word(_) => {}
            Type::Named(name) => self.shapes.get(name).into_iter().for_each(|of| self.look(of, value, at, found)),
            Type::Either(all) => {
                let best = all.iter().min_by_key(|of| self.compare(of, value, "").len());
                best.into_iter().for_each(|of| self.look(of, value, at, found));
            }
            Type::List(of) => {
                let rows = value.as_array().map_or(&[][..], Vec::as_slice);
                if self.is_object(of) {
                    // A type that is named is compared once for all lists of it.
                    let name = if let Type::Named(name) = &**of { name.as_str() } else { at };
                    *found.entry(name.to_owned()).or_default() |= !rows.is_empty();
                }
                rows.iter().for_each(|row| self.look(of, row, at, found));
            }
            Type::Map(of) => {
                let all = value.as_object().into_iter().flat_map(|all| all.values());
                all.for_each(|one| self.look(of, one, at, found));
            }
            Type::Object(fields) => {
                for field in self.flat(fields) {
                    let inner = value.get(&field.name).into_iter();
                    inner.for_each(|value| self.look(&field.of, value, &format!("{at}.{}", field.name), found));
                }
            }
        }
    }

    fn is_object(&self, of: &Type) -> bool {
        match of {
            Type::Object(_) => true,
            Type::Named(name) => self.shapes.get(name).is_some_and(|of| self.is_object(of)),
            Type::Any
            | Type::Text
            | Type::Time
            | Type::Integer
            | Type::Number
            | Type::Boolean
            | Type::Null
            | Type::Word(_)
            | Type::List(_)
            | Type::Map(_)
            | Type::Either(_) => false,
        }
    }

    fn compare(&self, of: &Type, value: &Value, at: &str) -> Vec<String> {
        let wrong = |wanted: &str| vec![format!("{} is {}, not {wanted}", place(at), shortened(value))];
        let holds = |holds: bool, wanted: &str| if holds { Vec::new() } else { wrong(wanted) };
        match of {
            Type::Any => Vec::new(),
            Type::Text => holds(value.is_string(), "a string"),
            Type::Time => holds(value.as_str().is_some_and(is_time), "a time"),
            Type::Integer => holds(value.is_i64() || value.is_u64(), "an integer"),
            Type::Number => holds(value.is_number(), "a number"),
            Type::Boolean => holds(value.is_boolean(), "a boolean"),
            Type::Null => holds(value.is_null(), "null"),
            Type::Word(word) => holds(value == word.as_str(), &format!("{word:?}")),
            Type::Named(name) => match self.shapes.get(name) {
                Some(of) => self.compare(of, value, at),
                None => vec![format!("{name} is not among the shapes")],
            },
            Type::Either(all) => {
                all.iter().map(|of| self.compare(of, value, at)).min_by_key(Vec::len).unwrap_or_default()
            }
            Type::List(of) => match value.as_array() {
                Some(all) => (0..).zip(all).flat_map(|(n, one)| self.compare(of, one, &format!("{at}[{n}]"))).collect(),
                None => wrong("a list"),
            },
            Type::Map(of) => match value.as_object() {
                Some(all) => all.iter().flat_map(|(key, one)| self.compare(of, one, &format!("{at}.{key}"))).collect(),
                None => wrong("an object"),
            },
            Type::Object(fields) => match value.as_object() {
                Some(_) => self.compare_fields(&self.flat(fields), value, at),
                None => wrong("an object"),
            },
        }
    }

    fn compare_fields(&self, fields: &[&Field], value: &Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        for field in fields {
            let at = format!("{at}.{}", field.name);
            match value.get(&field.name) {
                Some(value) => found.extend(self.compare(&field.of, value, &at)),
                None if field.optional => {}
                None => found.push(format!("{} is missing: no field goes", place(&at))),
            }
        }
        let present = value.as_object().into_iter().flat_map(|all| all.keys());
        let new = present.filter(|name| !fields.iter().any(|field| field.name == **name));
        found.extend(
            new.map(|name| format!("{} is new: write it into node/docs/json.md", place(&format!("{at}.{name}")))),
        );
        found
    }

    /// The fields with those of other types in their places.
    fn flat<'t>(&'t self, fields: &'t [Field]) -> Vec<&'t Field> {
        let mut all = Vec::new();
        for field in fields {
            let spread =
                if let Type::Named(name) = &field.of { Some(name).filter(|_| field.name.is_empty()) } else { None };
            let Some(name) = spread else {
                all.push(field);
                continue;
            };
            let Some(Type::Object(fields)) = self.shapes.get(name) else {
                panic!("...{name}: no object of that name is among the shapes");
            };
            all.extend(self.flat(fields));
        }
        all
    }
}

fn place(at: &str) -> &str {
    if at.is_empty() { "the whole" } else { at }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(60).collect()
}

/// A time as the documentation writes it, `2026-01-02T03:04:05.678Z`; what stands after the seconds may be shorter.
pub fn is_time(text: &str) -> bool {
    let form = "0000-00-00T00:00:00";
    let same = |(pattern, found): (char, char)| if pattern == '0' { found.is_ascii_digit() } else { pattern == found };
    text.len() > form.len() && text.ends_with('Z') && form.chars().zip(text.chars()).all(same)
}

/// Reads types as the documentation writes them.
struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    text: &'t str,
}

impl<'t> Reader<'t> {
    fn of(text: &'t str) -> Self {
        Self { rest: text.chars().peekable(), text }
    }

    fn whole(&mut self) -> Type {
        let of = self.of_alternatives();
        assert_eq!(self.next(), None, "after the type in\n{}", self.text);
        of
    }

    /// `Name = type`, again and again.
    fn definitions(&mut self) -> Vec<(String, Type)> {
        let mut all = Vec::new();
        while self.next().is_some() {
            let name = self.word();
            self.expect('=');
            all.push((name, self.of_alternatives()));
        }
        all
    }

    fn of_alternatives(&mut self) -> Type {
        let mut all = vec![self.of_list()];
        while self.takes('|') {
            all.push(self.of_list());
        }
        if all.len() == 1 { all.remove(0) } else { Type::Either(all) }
    }

    fn of_list(&mut self) -> Type {
        let mut of = self.of_one();
        while self.takes('[') {
            self.expect(']');
            of = Type::List(Box::new(of));
        }
        of
    }

    fn of_one(&mut self) -> Type {
        if self.next() == Some('{') {
            return self.of_object();
        }
        if self.takes('"') {
            return Type::Word(self.rest.by_ref().take_while(|c| *c != '"').collect());
        }
        match self.word().as_str() {
            "any" => Type::Any,
            "string" => Type::Text,
            "time" => Type::Time,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            "null" => Type::Null,
            name => Type::Named(name.to_owned()),
        }
    }

    fn of_object(&mut self) -> Type {
        self.expect('{');
        let mut fields = Vec::new();
        while !self.takes('}') {
            if self.takes('[') {
                self.word();
                self.expect(']');
                self.expect(':');
                let of = self.of_alternatives();
                self.expect('}');
                return Type::Map(Box::new(of));
            }
            if self.takes('.') {
                self.expect('.');
                self.expect('.');
                fields.push(Field { name: String::new(), optional: false, of: Type::Named(self.word()) });
            } else {
                let name = self.word();
                let optional = self.takes('?');
                self.expect(':');
                fields.push(Field { name, optional, of: self.of_alternatives() });
            }
            self.takes(',');
        }
        Type::Object(fields)
    }

    /// The next character that is neither space nor in a comment.
    fn next(&mut self) -> Option<char> {
        loop {
            match self.rest.peek()? {
                c if c.is_whitespace() => drop(self.rest.next()),
                '/' => self.rest.by_ref().take_while(|c| *c != '\n').for_each(drop),
                c => return Some(*c),
            }
        }
    }

    fn takes(&mut self, wanted: char) -> bool {
        let found = self.next() == Some(wanted);
        if found {
            self.rest.next();
        }
        found
    }

    fn expect(&mut self, wanted: char) {
        assert!(
            self.takes(wanted),
            "{wanted} is missing before {:?} in\n{}",
            self.rest.clone().collect::<String>(),
            self.text
        );
    }

    fn word(&mut self) -> String {
        self.next();
        let mut word = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
        }
        assert!(
            !word.is_empty(),
            "a name is missing before {:?} in\n{}",
            self.rest.clone().collect::<String>(),
            self.text
        );
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn contract() -> Contract {
        Contract::of(
            "### skein members\n\n```ts\nMember[] // of all\n```\n\n### skein members of\n\n```ts\n{ ...Member, more: {[key]: integer} }\n```\n\n## Shapes\n\n```ts\nMember = {\n  name: string, state: \"alive\" | \"dead\",\n  rtt?: number | null   // none without a link\n}\n```\n",
        )
    }

    #[test]
    fn what_is_as_it_is_written_passes() {
        let of = contract();
        assert_eq!(of.complaints("members", &json!([])), [""; 0]);
        let full = json!([{"name": "a", "state": "alive", "rtt": 1.5}, {"name": "b", "state": "dead", "rtt": null}]);
        assert_eq!(of.complaints("members --all", &full), [""; 0]);
        assert_eq!(of.complaints("members of a", &json!({"name": "a", "state": "dead", "more": {"x": 1}})), [""; 0]);
    }

    #[test]
    fn what_is_gone_changed_or_new_is_named() {
        let of = contract();
        let told = of.complaints("members", &json!([{"state": "gone", "rtt": "1", "since": 1}]));
        for word in ["[0].name is missing", "[0].state is \"gone\"", "[0].rtt is \"1\"", "[0].since is new"] {
            assert!(told.iter().any(|line| line.contains(word)), "{word}: {told:?}");
        }
        assert_eq!(of.complaints("members", &json!({})).len(), 1);
        assert_eq!(of.complaints("members of", &json!({"name": "a", "state": "dead", "more": {"x": 0.5}})).len(), 1);
    }

    #[test]
    fn a_list_without_a_row_was_not_compared() {
        let of = contract();
        let row = json!({"name": "a", "state": "dead"});
        assert_eq!(of.lists("members", &json!([])), BTreeMap::from([("Member".to_owned(), false)]));
        assert_eq!(of.lists("members", &json!([row])), BTreeMap::from([("Member".to_owned(), true)]));
        assert_eq!(of.lists("members of a", &json!({"name": "a", "state": "dead", "more": {}})), BTreeMap::new());
    }

    #[test]
    fn times_have_one_form() {
        assert!(is_time("2026-01-02T03:04:05.678Z") && is_time("2026-01-02T03:04:05Z"));
        assert!(!is_time("2026-01-02 03:04:05Z") && !is_time("2026-01-02T03:04:05+01:00") && !is_time(""));
    }
}
