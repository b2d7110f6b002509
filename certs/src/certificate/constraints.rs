//! Name constraints (RFC 5280, section 4.2.1.10) of the two sorts that this mesh issues: DNS names permitted or excluded, and IP
//! addresses excluded. What bounds an identity is the grant; but a certificate that foreign stacks would refuse is refused here too.

use x509_parser::extensions::{GeneralName, GeneralSubtree, ParsedExtension, X509Extension};

use super::shape::has_bare_subtrees;
use crate::verify::{Link, VerifyError};

/// What a CA's certificate says of the DNS names below it.
#[derive(Debug, Default)]
pub(super) struct Constraints {
    /// None: every name.
    permitted: Option<Vec<String>>,
    excluded: Vec<String>,
}

impl Constraints {
    /// Reads the extension; a leaf has none.
    pub(super) fn read(extension: Option<&X509Extension<'_>>, link: Link) -> Result<Constraints, VerifyError> {
        let Some(extension) = extension else { return Ok(Constraints::default()) };
        let malformed = |what| VerifyError::Malformed { link, what };
        if link == Link::Leaf {
            return Err(malformed("name constraints of one that issues nothing"));
        }
        if !has_bare_subtrees(extension.value) {
            return Err(malformed("name constraints with a depth"));
        }
        let ParsedExtension::NameConstraints(read) = extension.parsed_extension() else {
            return Err(malformed("its name constraints cannot be read"));
        };
        let (permitted, excluded) = (read.permitted_subtrees.as_deref(), read.excluded_subtrees.as_deref());
        let permitted = permitted.map(|trees| dns_names(trees, false)).transpose().map_err(malformed)?;
        let excluded = dns_names(excluded.unwrap_or_default(), true).map_err(malformed)?;
        Ok(Constraints { permitted, excluded })
    }

    /// True if certificates below may bear `name`.
    pub(super) fn permit(&self, name: &str) -> bool {
        let within = |trees: &[String]| trees.iter().any(|tree| is_within(name, tree));
        self.permitted.as_deref().is_none_or(within) && !within(&self.excluded)
    }
}

/// The DNS names of subtrees; IP addresses only where they are excluded, since no identity has one.
fn dns_names(trees: &[GeneralSubtree<'_>], excluded: bool) -> Result<Vec<String>, &'static str> {
    let mut names = Vec::new();
    for tree in trees {
        match &tree.base {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(_) if excluded => {}
            GeneralName::IPAddress(_)
            | GeneralName::URI(_)
            | GeneralName::RFC822Name(_)
            | GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => return Err("name constraints other than of DNS names"),
        }
    }
    Ok(names)
}

/// The name itself and what has further labels to its left; an empty tree holds all.
fn is_within(name: &str, tree: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let tree = tree.to_ascii_lowercase();
    tree.is_empty() || name.strip_suffix(tree.as_str()).is_some_and(|left| left.is_empty() || left.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_its_root_and_what_is_left_of_it() {
        for (name, tree, wanted) in [
            ("web.shop.prod.example", "prod.example", true),
            ("web.shop.prod.example", "web.shop.prod.example", true),
            ("web.shop.prod.example", "WEB.shop.prod.example", true),
            ("web.shop.prod.example", "", true),
            ("web.shop.prod.example", "b.shop.prod.example", false),
            ("web.shop.prod.example", "eb.shop.prod.example", false),
            ("web.shop.prod.example", "x.web.shop.prod.example", false),
            ("web.shop.prod.example", "other.example", false),
        ] {
            assert_eq!(is_within(name, tree), wanted, "{name} in {tree}");
        }
    }
}
