//! What a store keeps over restarts, and what it says of disks and formats that do not fit.

use super::*;

const DAY: Millis = 86_400_000;

pub(super) fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("store.redb")).unwrap()
}

pub(super) fn judgement(subject: &[u8], refused: Option<&str>) -> Judgement {
    Judgement { at: 7, subject: Digest::of(subject), from: "push".into(), refused: refused.map(Into::into) }
}

#[test]
fn changesets_come_back_in_order_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    first.append(&[b"one", b"two"], &[judgement(b"one", None), judgement(b"two", None)]).unwrap();
    first.append(&[b"three"], &[judgement(b"three", None)]).unwrap();
    drop(first);
    assert_eq!(store(&folder).changesets().unwrap(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[test]
fn a_panic_over_the_store_closes_it_until_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    first.append(&[b"one"], &[]).unwrap();
    let broken = std::panic::AssertUnwindSafe(|| first.read::<()>(|_| panic!("broken")));
    assert!(std::panic::catch_unwind(broken).is_err());
    let refused = [first.trouble(), first.changesets().err(), first.append(&[b"two"], &[]).err()];
    assert!(
        refused.iter().all(|error| error.as_ref().is_some_and(|error| error.code == "storage_failed")),
        "{refused:?}"
    );
    drop(first);
    let again = store(&folder);
    assert_eq!((again.trouble(), again.changesets().unwrap()), (None, vec![b"one".to_vec()]));
}

#[test]
fn a_store_of_a_newer_build_is_left_alone_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    first.append(&[b"one"], &[judgement(b"one", None)]).unwrap();
    assert_eq!(first.meta(FORMAT).unwrap(), Some(1_u32.to_be_bytes().to_vec()));
    first.set_meta(FORMAT, &2_u32.to_be_bytes()).unwrap();
    drop(first);
    let path = folder.path().join("store.redb");
    for _ in 0..2 {
        let refused = Store::open(&path).unwrap_err();
        assert_eq!(refused.code, "not_supported");
        assert!(refused.message.contains("format 2") && refused.hint.contains("newer"), "{refused:?}");
    }
    // Nor is what it holds called damaged.
    let database = Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(AUDIT).unwrap().insert(0_u64, &[0xff_u8; 9][..]).unwrap();
    write.commit().unwrap();
    drop(database);
    assert_eq!(Store::audit_at(&path).unwrap_err().code, "not_supported");
}

#[test]
fn a_store_without_a_format_is_of_the_first_one() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    first.append(&[b"one"], &[judgement(b"one", None)]).unwrap();
    first
        .write(0, |write| {
            write.open_table(META)?.remove(FORMAT)?;
            Ok(())
        })
        .unwrap();
    drop(first);
    assert_eq!(store(&folder).changesets().unwrap(), [b"one".to_vec()]);
}

/// What lies on disks: a change here needs another [`NEWEST_FORMAT`] and a reader of this one.
#[test]
fn entries_stay_as_they_are() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let redeemed = Spent::Redeemed { keys: Digest([1; 32]), reply: vec![7, 8] };
    let ones = "01".repeat(32);
    let entry = AuditEntry {
        previous: Digest([1; 32]),
        at: 1_700_000_000_000,
        subject: Digest([1; 32]),
        from: "push".into(),
        refused: Some("role_missing".into()),
    };
    for (made, kept) in [
        (codec::encode(&Spent::WrongProofs(3)), "0003".to_owned()),
        (codec::encode(&redeemed), format!("01{ones}020708")),
        (codec::encode(&Spent::Burnt), "02".to_owned()),
        (codec::encode(&AuditHead { count: 300, digest: Digest([1; 32]) }), format!("fb2c01{ones}")),
        (codec::encode(&entry), format!("{ones}fd0068e5cf8b010000{ones}0470757368010c726f6c655f6d697373696e67")),
    ] {
        assert_eq!(hex(&made), kept);
    }
    let bytes = |kept: &str| {
        let digits = |at: usize| u8::from_str_radix(&kept[at..at + 2], 16).unwrap();
        (0..kept.len()).step_by(2).map(digits).collect::<Vec<u8>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let known = KnownKey { epoch: 2, ca_key: Digest([1; 32]), record_key: certs::sign::PublicKey([2; 32]) };
    let known = HashMap::from([(NodeId::new("a").unwrap(), known)]);
    let kept = format!("01016102{ones}{}", "02".repeat(32));
    store.set_meta(KNOWN_KEYS, &bytes(&kept)).unwrap();
    assert_eq!(store.known_keys().unwrap(), known);
    store.set_known_keys(&known).unwrap();
    assert_eq!(hex(&store.meta(KNOWN_KEYS).unwrap().unwrap()), kept);
    store.set_generation(0x0102_0304_0506_0708).unwrap();
    assert_eq!(hex(&store.meta(GENERATION).unwrap().unwrap()), "0102030405060708");
    // Above what it holds, a day ahead of the clock.
    let now = (0x01_0203_0405 - 86_400) * 1_000;
    assert!(store.next_generation(0, now, 0).unwrap() > 0x0102_0304_0506_0708);
    // Membership says what its bytes mean.
    store.set_members(&[7, 8]).unwrap();
    assert_eq!(hex(&store.meta(MEMBERS).unwrap().unwrap()), "0708");
}

#[test]
fn a_token_stays_spent() {
    let folder = tempfile::tempdir().unwrap();
    let hash = Digest::of(b"secret");
    let first = store(&folder);
    assert_eq!(first.token(&hash).unwrap(), None);
    let wrong = Spent::WrongProofs(1);
    first.set_token(&hash, None, &wrong, None).unwrap();
    let redeemed = |key: &[u8]| Spent::Redeemed { keys: Digest::of(key), reply: b"chain".to_vec() };
    let by_another = redeemed(b"other key");
    let redeemed = redeemed(b"key");
    first.set_token(&hash, Some(&wrong), &redeemed, None).unwrap();
    // By one who read it before that: nothing is written, and the store goes on.
    for stale in [None, Some(&wrong)] {
        let refused = first.set_token(&hash, stale, &by_another, Some(judgement(b"secret", None)));
        assert_eq!(refused.unwrap_err().code, "failed");
    }
    assert_eq!(first.audit_head().unwrap(), AuditHead::NONE);
    drop(first);
    assert_eq!(store(&folder).token(&hash).unwrap(), Some(redeemed));
}

#[test]
fn generations_only_grow_even_if_the_clock_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let now = 1_700_000_000_000;
    let first = store.next_generation(0, now, 0xffff_ffff).unwrap();
    let second = store.next_generation(0, now - 5_000_000, 0).unwrap();
    let earlier = now - 300 * DAY;
    let third = store.next_generation(second + (9 << 24), earlier, 0).unwrap();
    assert!(first < second && second < third, "{first} {second} {third}");
    assert!(first >> 24 > now / 1000);
    store.set_generation(third + (9 << 24)).unwrap();
    assert!(store.next_generation(0, earlier, 0).unwrap() > third + (9 << 24));
}

/// Peers take none that lies so far ahead of their clocks: the node would be mute for as long.
#[test]
fn a_generation_that_a_clock_years_ahead_drew_counts_for_nothing_once_it_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let now = 1_700_000_000_000;
    let ahead = store.next_generation(0, now + 400 * DAY, 0).unwrap();
    let right = store.next_generation(0, now, 0).unwrap();
    assert!(right < ahead && right >> 24 == now / 1_000 + 1, "{right}");
    assert!(store.next_generation(0, now, 0).unwrap() > right);
}

#[test]
fn known_keys_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    assert!(store.known_keys().unwrap().is_empty());
    let record_key = certs::sign::SigningKey::generate().public();
    let known = KnownKey { epoch: 2, ca_key: Digest::of(b"key"), record_key };
    let known = HashMap::from([(NodeId::new("a").unwrap(), known)]);
    store.set_known_keys(&known).unwrap();
    assert_eq!(store.known_keys().unwrap(), known);
}

#[test]
fn members_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    assert_eq!(store.members().unwrap(), None);
    store.set_members(b"known").unwrap();
    assert_eq!(store.members().unwrap().unwrap(), b"known");
    assert_eq!(store.trouble(), None);
}
