//! What a group lets through, and when a pool is swept.

use certs::id::{ServiceAccount, ServiceName, TrustDomain};
use futures_util::FutureExt as _;

use super::*;
use crate::mesh::preface::Protocol;

#[test]
fn a_pool_without_groups_is_not_swept() {
    let mesh = TrustDomain::new("t.example").unwrap();
    let [source, identity] =
        ["web", "api"].map(|name| SpiffeId::service(mesh.clone(), ServiceAccount::new("default", name).unwrap()));
    let preface = Preface {
        service: ServiceName::new("default", "api").unwrap(),
        instance: None,
        port: 80,
        source: None,
        protocol: Protocol::Http1,
        extensions: Vec::new(),
    };
    let call = Call {
        source: &source,
        node: &NodeId::new("b").unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        identity: &identity,
        preface: &preface,
        patience: Duration::ZERO,
        pings: None,
    };
    let pool = Pool::default();
    let is_used = || pool.used().now_or_never().is_some();
    assert!(!is_used());
    let group = pool.group(&call);
    assert!(is_used() && is_used());
    pool.sweep(Uptime::now());
    assert!(is_used(), "somebody is about to use it");
    drop(group);
    pool.sweep(Uptime::now());
    assert!(!is_used() && !is_used());
}

#[tokio::test]
async fn so_many_requests_of_a_group_are_under_way_and_so_many_wait() {
    let group = Group::default();
    let mut held = Vec::new();
    for _ in 0..MAX_UNDER_WAY {
        held.push(group.permit().await.expect("there is room"));
    }
    let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(group.permit())).collect();
    for one in &mut waiting {
        assert!(futures_util::poll!(one.as_mut()).is_pending());
    }
    assert!(matches!(group.permit().await, Err(Error::Overflow(Limit::Waiting))));
    drop(held.pop());
    assert!(waiting.remove(0).await.is_ok(), "who came first");
    assert!(futures_util::poll!(Box::pin(group.permit())).is_pending(), "one place is free");
}
