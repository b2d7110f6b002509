//! `skein policy export`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use policy::{DocumentId, hosts};
use serde_json::{Map, Value, json};

use crate::{
    agent::admin::api::Content,
    cli::{
        client,
        context::Context,
        error::{Error, Result, io},
        output::{remark, yaml},
        signing,
    },
};

/// Prints every document in effect as YAML that `push` accepts, fit for version control: in a stable order and without
/// what servers write into metadata. RoleSets, grants, revocations and confirmations stay out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy export > backup.yaml
  skein policy export --dir policies/ && git -C policies/ diff")]
pub struct Args {
    /// Write one file per document instead: DIR/NAMESPACE/KIND-NAME.yaml
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Fields of metadata that servers write; `creationTimestamp` stays, because the oldest of two documents wins.
const SERVERS: [&str; 7] =
    ["uid", "resourceVersion", "generation", "selfLink", "managedFields", "ownerReferences", "finalizers"];

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let contents: Vec<Content> = client::connect(ctx).await?.get("/v1/policy/export").await?;
    let mut documents = contents.into_iter().map(|content| exported(&content)).collect::<Result<Vec<_>>>()?;
    documents.sort_by(|a, b| a.0.cmp(&b.0));
    let Some(dir) = args.dir else {
        let text = documents
            .iter()
            .map(|(_, document)| Ok(format!("---\n{}", yaml(document)?)))
            .collect::<Result<String>>()?;
        let documents: Vec<Value> = documents.into_iter().map(|(_, document)| document).collect();
        return ctx.output.show(&documents, || text);
    };
    let written = write(&dir, &documents)?;
    for file in others(&dir, &written) {
        remark(&format!("note: {} is of no document in effect", file.display()));
    }
    let files: Vec<String> = written.iter().map(|file| file.display().to_string()).collect();
    ctx.output.show(&json!({"files": files}), || files.iter().map(|file| format!("{file}\n")).collect())
}

/// A document's id and what of it goes into a file.
fn exported(content: &Content) -> Result<(DocumentId, Value)> {
    let summary = &content.summary;
    let id = DocumentId::new(signing::kind(&summary.kind)?, &summary.namespace, &summary.name);
    // The names become names of files, and a node's word is no reason to write elsewhere.
    if !hosts::is_document_name(&id.name) || !hosts::is_dns_label(&id.namespace) {
        return Err(Error::new("failed", format!("the node names a document {id:?}")).hint("ask another node"));
    }
    Ok((id, tidied(&content.document)))
}

/// The document with its head in one order, and without what servers write.
fn tidied(document: &Value) -> Value {
    let Value::Object(fields) = document else { return document.clone() };
    let mut metadata = fields.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    SERVERS.iter().for_each(|name| drop(metadata.shift_remove(*name)));
    let mut all = fields.clone();
    all.insert(
        "metadata".to_owned(),
        Value::Object(ordered(metadata, &["name", "namespace", "labels", "annotations"])),
    );
    Value::Object(ordered(all, &["apiVersion", "kind", "metadata", "spec"]))
}

/// These fields first, the others as they came.
fn ordered(mut fields: Map<String, Value>, first: &[&str]) -> Map<String, Value> {
    let head: Vec<_> = first.iter().filter_map(|name| fields.shift_remove_entry(*name)).collect();
    head.into_iter().chain(fields).collect()
}

fn write(dir: &Path, documents: &[(DocumentId, Value)]) -> Result<BTreeSet<PathBuf>> {
    let mut written = BTreeSet::new();
    for (id, document) in documents {
        let folder = dir.join(&id.namespace);
        std::fs::create_dir_all(&folder).map_err(|error| io("create", &folder, &error))?;
        let file = folder.join(format!("{}-{}.yaml", id.kind.as_str().to_ascii_lowercase(), id.name));
        std::fs::write(&file, yaml(document)?).map_err(|error| io("write", &file, &error))?;
        written.insert(file);
    }
    Ok(written)
}

/// Files of earlier exports whose documents are gone.
fn others(dir: &Path, written: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries(dir).filter(|path| path.is_dir()).flat_map(|folder| entries(&folder).collect::<Vec<_>>());
    let mut others: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|end| end == "yaml") && !written.contains(file)).collect();
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_its_author_wrote_in_one_order() {
        let document = json!({
            "kind": "VirtualService",
            "spec": {"http": [], "hosts": ["a"]},
            "metadata": {"uid": "1", "labels": {"b": "c"}, "namespace": "shop", "name": "a", "generation": 7},
            "apiVersion": "networking.istio.io/v1",
        });
        let text = yaml(&tidied(&document)).unwrap();
        let wanted = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\n  namespace: shop\n  labels:\n    b: c\nspec:\n  http: []\n  hosts:\n    - a\n";
        assert_eq!(text.replace("  - a", "    - a").replace("      - a", "    - a"), wanted);
    }

    #[test]
    fn files_of_documents_that_are_gone_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let id = DocumentId::new(policy::Kind::VirtualService, "shop", "a.b");
        let written = write(dir.path(), &[(id, json!({}))]).unwrap();
        assert!(dir.path().join("shop/virtualservice-a.b.yaml").is_file());
        std::fs::write(dir.path().join("shop/virtualservice-old.yaml"), "").unwrap();
        std::fs::write(dir.path().join("shop/README.md"), "").unwrap();
        assert_eq!(others(dir.path(), &written), [dir.path().join("shop/virtualservice-old.yaml")]);
    }
}
