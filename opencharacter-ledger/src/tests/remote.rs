use std::{sync::Arc, time::Duration};

use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory};

use super::*;
use crate::{LedgerError, verify};

fn on(store: &Arc<dyn ObjectStore>, cache: &Path, limits: Limits) -> Ledger {
    Ledger::open_store_with(Arc::clone(store), "run/ledger".into(), cache, limits).unwrap()
}

fn two_caches_share(store: &Arc<dyn ObjectStore>) {
    let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ledgers = caches.each_ref().map(|cache| on(store, cache.path(), SMALL));
    for number in 0..8 {
        ledgers[number % 2].append(&accepted(number, "text")).unwrap();
    }
    // The same key twice, with other answers: both machines agree on one of them.
    ledgers[0].append(&accepted(8, "one")).unwrap();
    ledgers[1].append(&accepted(8, "other")).unwrap();
    for ledger in &ledgers {
        ledger.flush().unwrap();
    }
    for ledger in &ledgers {
        ledger.refresh().unwrap();
    }
    for ledger in &ledgers {
        assert!((0..8).all(|number| holds(ledger, number)));
        assert_eq!((ledger.len(), calls(ledger)), (9, 10));
    }
    let agreed = ledgers[0].lookup(&key(8)).unwrap();
    assert_eq!(ledgers[1].lookup(&key(8)).unwrap(), agreed);
    let [first, second] = ledgers;
    first.close().unwrap();
    second.close().unwrap();
    let third = tempfile::tempdir().unwrap();
    let ledger = on(store, third.path(), SMALL);
    assert_eq!((ledger.len(), calls(&ledger), ledger.lookup(&key(8)).unwrap()), (9, 10, agreed));
    assert!(verify(third.path()).unwrap().is_sound());
    drop(ledger);
    assert!(matches!(Ledger::compact(third.path()), Err(LedgerError::Shared { .. })));
}

#[test]
fn two_caches_share_a_store() {
    two_caches_share(&(Arc::new(InMemory::new()) as _));
    let directory = tempfile::tempdir().unwrap();
    two_caches_share(&(Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap()) as _));
}

#[test]
fn what_a_killed_process_did_not_send_is_sent_at_the_next_opening() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cache = tempfile::tempdir().unwrap();
    // A ledger that was local until it was killed, its last record torn: no index, nothing in the store.
    filled(cache.path(), 5);
    let last = logs(cache.path()).pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() - 1]).unwrap();
    for index in indexes(cache.path()) {
        fs::remove_file(index).unwrap();
    }
    let ledger = on(&store, cache.path(), SMALL);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = on(&store, elsewhere.path(), SMALL);
    for ledger in [&ledger, &other] {
        assert_eq!((0..5).filter(|number| holds(ledger, *number)).count(), 4);
    }
}

#[test]
fn a_record_reaches_the_store_without_being_asked_for() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (cache, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let limits = Limits { age: Some(Duration::from_millis(20)), ..SMALL };
    let (ledger, other) = (on(&store, cache.path(), limits), on(&store, elsewhere.path(), limits));
    ledger.append(&accepted(0, "text")).unwrap();
    for _ in 0..500 {
        other.refresh().unwrap();
        if holds(&other, 0) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within five seconds");
}

#[tokio::test]
async fn it_can_be_used_on_a_runtimes_thread() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cache = tempfile::tempdir().unwrap();
    let ledger = on(&store, cache.path(), SMALL);
    ledger.append(&accepted(0, "text")).unwrap();
    ledger.flush().unwrap();
    ledger.refresh().unwrap();
    drop(ledger);
}

#[tokio::test]
async fn another_programs_object_is_not_overwritten() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cache = tempfile::tempdir().unwrap();
    let ledger = on(&store, cache.path(), SMALL);
    ledger.append(&accepted(0, "text")).unwrap();
    let name = logs(cache.path())[0].file_name().unwrap().to_string_lossy().into_owned();
    let object = object_store::path::Path::from(format!("run/ledger/{name}"));
    store.put(&object, "mine".into()).await.unwrap();
    let error = ledger.flush().unwrap_err();
    assert!(matches!(error, LedgerError::StoreConflict { found: 4, .. }), "{error}");
    assert_eq!(store.get(&object).await.unwrap().bytes().await.unwrap(), "mine");
}
