//! What the tests of this crate share with those beside it.

use std::collections::BTreeMap;

use certs::id::{ServiceAccount, ServiceName};

use crate::body::{PortRecord, ServiceRecord};

#[path = "../tests/support/world.rs"]
mod world;

pub(crate) use world::{Citizen, START, World};

pub(crate) fn service(name: &str) -> ServiceRecord {
    let service: ServiceName = format!("default/{name}").parse().expect("valid");
    ServiceRecord {
        instance: None,
        account: ServiceAccount::default_of(&service),
        service,
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        ports: vec![PortRecord { name: "http".to_owned(), number: 80, protocol: "http".to_owned() }],
        weight: 1,
    }
}
