//! Power loss: what the system had not written is lost, whole or in part. It costs the objects of the last second at most,
//! and never yields wrong bytes.

use super::packs::read_whole;
use super::*;
use gupd_store::{BLOCK, CHUNK};
use proptest::prelude::*;

/// Bytes of a file that a power loss takes: its end, or the last bytes as zeros.
fn lose(path: &Path, synced: u64, lost: u64, as_zeros: bool) {
    let Ok(file) = fs::File::options().write(true).open(path) else { return };
    let len = file.metadata().unwrap().len();
    let keep = synced.max(len.saturating_sub(lost));
    if keep < len {
        file.set_len(keep).unwrap();
        if as_zeros {
            file.set_len(len).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn power_loss_costs_only_unsynced_objects(
        lost in proptest::collection::vec(0u64..40_000, 3), as_zeros in proptest::collection::vec(any::<bool>(), 3),
    ) {
        let site = Site::with(|config| config.memory = 0);
        let put = async |store: &Arc<Store>, keys: std::ops::Range<u64>| {
            for key in keys {
                super::store(store, &key.to_string(), &body(key, 100 + key * 50)).await.unwrap();
            }
        };
        // The end of a store syncs what is left.
        run(async { put(&site.open(), 0..20).await });
        let names = ["packs/1", "index.journal", "index.db-wal"];
        let size = |site: &Site, name: &str| fs::metadata(site.config.dir.join(name)).map_or(0, |file| file.len());
        let synced = names.map(|name| size(&site, name));
        let store = site.open();
        run(put(&store, 20..40));
        let crashed = site.crashed();
        for (at, name) in names.into_iter().enumerate() {
            lose(&crashed.config.dir.join(name), synced[at], lost[at], as_zeros[at]);
        }
        drop(store);
        run(async {
            let store = crashed.open();
            store.maintain().await.unwrap();
            for key in 0..40 {
                let name = key.to_string();
                if store.lookup(&name).await.unwrap().is_empty() {
                    assert!(key >= 20, "object {key} was synced");
                    continue;
                }
                match read_whole(&store, &name).await {
                    Ok(read) => assert_eq!(read, body(key, 100 + key * 50), "object {key}"),
                    Err(error) => assert!(key >= 20, "object {key}: {error}"),
                }
            }
            // Lost objects are stored again, beside those that were kept.
            put(&store, 0..40).await;
            for key in 0..40 {
                let blob = store.lookup(&key.to_string()).await.unwrap()[0].blob;
                if read_whole(&store, &key.to_string()).await.is_err() {
                    store.discard_blob(blob).await.unwrap();
                }
            }
        });
    }
}

/// What a power loss leaves of an unsynced file.
#[derive(Clone, Copy, Debug)]
enum Remains {
    Whole,
    Nothing,
    /// The first bytes, in 64ths of the file.
    First(u64),
    /// The first bytes, and zeros in place of the others.
    Zeros(u64),
}

fn remains() -> impl Strategy<Value = Remains> {
    prop_oneof![
        Just(Remains::Whole),
        Just(Remains::Nothing),
        (0..64u64).prop_map(Remains::First),
        (0..64u64).prop_map(Remains::Zeros),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn power_loss_leaves_no_wrong_bytes_of_unsynced_files(
        left in proptest::collection::vec(remains(), 6), has_index: bool,
    ) {
        let site = Site::with(|config| config.memory = 0);
        let sizes = [BLOCK, BLOCK + 1, 3 * BLOCK, CHUNK / 2, CHUNK - 1, CHUNK];
        let store = site.open();
        let mut blobs = Vec::new();
        run(async {
            for size in sizes {
                blobs.push(super::store(&store, &size.to_string(), &body(size, size)).await.unwrap().object.blob);
            }
        });
        let crashed = site.crashed();
        drop(store);
        for (id, left) in blobs.iter().zip(&left) {
            let path = crashed.blob(*id);
            let size = fs::metadata(&path).unwrap().len();
            match *left {
                Remains::Whole => {}
                Remains::Nothing => fs::remove_file(path).unwrap(),
                Remains::First(part) => lose(&path, 0, size - size * part / 64, false),
                Remains::Zeros(part) => lose(&path, 0, size - size * part / 64, true),
            }
        }
        if !has_index {
            for file in ["index.db", "index.db-wal", "index.journal"] {
                drop(fs::remove_file(crashed.config.dir.join(file)));
            }
        }
        run(async {
            let store = crashed.open();
            store.maintain().await.unwrap();
            for (size, left) in sizes.iter().zip(&left) {
                let name = size.to_string();
                let is_whole = matches!(left, Remains::Whole);
                if store.lookup(&name).await.unwrap().is_empty() {
                    assert!(!is_whole, "{size} bytes are lost");
                } else if let Ok(read) = read_whole(&store, &name).await {
                    assert_eq!(read, body(*size, *size), "{left:?}");
                } else {
                    assert!(!is_whole, "{size} bytes are unreadable");
                    let blob = store.lookup(&name).await.unwrap()[0].blob;
                    store.discard_blob(blob).await.unwrap();
                }
                super::store(&store, &name, &body(*size, *size)).await.unwrap();
                assert_eq!(read_whole(&store, &name).await.unwrap(), body(*size, *size), "after {left:?}");
            }
        });
    }
}
