//! One bad sample for each rule: a rule that finds nothing in it would hold nowhere.

use super::rules;

fn file(name: &str, text: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), text.to_owned())]
}

#[test]
fn a_long_file_without_a_first_line_under_a_vague_name_is_found() {
    let found = rules::shape(&file("node/src/utils.rs", &"fn a() {}\n".repeat(501)));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn an_import_is_found_in_a_group_and_after_tests_but_not_in_them() {
    let found = |text: &str| rules::imports(&file("node/src/proxy/a.rs", text)).len();
    assert_eq!(found("use crate::agent::world::World;\n"), 1);
    assert_eq!(found("use crate::{agent::world::World, clock};\n"), 1);
    assert_eq!(
        found(
            "pub(crate) use crate::{\n    clock,\n    agent::{\n        book::Book,\n        world::World,\n    },\n};\n"
        ),
        2
    );
    assert_eq!(found("    let world = crate::agent::world::World::new();\n"), 1);
    assert_eq!(found("use crate::{proxy::agent::World, clock};\n"), 0, "another agent");
    let declared = "#[cfg(test)]\nmod tests;\n";
    assert_eq!(found(&format!("{declared}use crate::{{agent, clock}};\n")), 1);
    let with_body = "#[cfg(test)]\nmod tests {\n    use crate::{agent, clock};\n}\n";
    assert_eq!(found(with_body), 0);
    assert_eq!(found(&format!("{with_body}\nuse crate::agent;\n")), 1);
}

#[test]
fn what_another_owns_is_found_also_after_tests() {
    let found = |name: &str| {
        let text = "#[cfg(test)]\n#[path = \"a/tests.rs\"]\nmod tests;\n\nfn a() {\n    tokio::spawn(async {});\n}\n";
        rules::owners(&file(name, text)).len()
    };
    assert_eq!(found("node/src/mesh/a.rs"), 1);
    assert_eq!(found("node/src/tasks.rs"), 0);
}

#[test]
fn code_in_a_floor_plan_is_found_also_after_tests() {
    let text = "#[cfg(test)]\nmod testing;\n\nfn a() {}\n";
    assert_eq!(rules::floor_plans(&file("node/src/lib.rs", text)).len(), 1);
}

#[test]
fn a_stub_is_found() {
    let text = concat!("fn a() {\n    to", "do!()\n}\n");
    assert_eq!(rules::stubs(&file("node/src/a.rs", text)).len(), 1);
}

#[test]
fn a_room_that_only_prose_names_is_found() {
    let rooms =
        [file("node/src/mesh/a.rs", ""), file("node/src/clock.rs", ""), file("tests/crash/main.rs", "")].concat();
    let found = rules::rooms(&rooms, "the mesh has a `clock` and may crash");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_key_without_a_row_in_its_section_is_found() {
    let raw = "pub(super) struct Node {\n    pub(super) name: String,\n    pub(super) zone: String,\n}\n";
    let page = "# Configuration\n\n## `[node]`\n\n| `name` | its name |\n\n## `[mesh]`\n\n| `zone` | another |\n";
    assert_eq!(rules::configuration(raw, page).len(), 1);
}
