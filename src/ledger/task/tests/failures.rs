//! The ledger while its file or folder fails. Nothing that was recorded is lost.

use super::*;

#[test]
fn damaged_file_is_put_aside_and_replaced() {
    for content in [
        &b"no database, but longer than its header of one hundred bytes".repeat(4)[..],
        &b"SQLite format 3\0damaged".repeat(400)[..],
    ] {
        let bed = Bed::new();
        let path = bed.folder.path().join(FILE);
        std::fs::write(&path, content).unwrap();
        let mut writer = bed.writer();
        bed.add(&record(1, "/a"), TransferCause::Miss, 5);
        writer.write().unwrap();
        assert_eq!(writer.answer(&all()).unwrap().wan.received, 5);
        assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), content);
    }
}

#[test]
fn failed_write_loses_nothing() {
    let bed = Bed::new();
    let folder = bed.folder.path().join("absent");
    let mut writer = LedgerWriter { path: folder.join(FILE), ..bed.writer() };
    bed.add(&record(1, "/a"), TransferCause::Miss, 5);
    assert!(writer.write().is_err());
    bed.add(&record(1, "/a"), TransferCause::Miss, 6);
    std::fs::create_dir(&folder).unwrap();
    writer.write().unwrap();
    assert_eq!(writer.answer(&all()).unwrap().wan.received, 11);
    assert_eq!(writer.process_received, 11);
}

#[test]
fn replaced_folder_gets_no_second_file() {
    let bed = Bed::new();
    let (folder, aside) = (bed.folder.path().join("store"), bed.folder.path().join("away"));
    std::fs::create_dir(&folder).unwrap();
    let mut writer = LedgerWriter { path: folder.join(FILE), ..bed.writer() };
    bed.add(&record(1, "/a"), TransferCause::Miss, 5);
    writer.write().unwrap();
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    bed.add(&record(1, "/a"), TransferCause::Miss, 6);
    assert!(writer.write().unwrap_err().to_string().contains("another folder"));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    writer.write().unwrap();
    assert_eq!(writer.answer(&all()).unwrap().wan.received, 11);
}

#[test]
fn file_that_does_not_open_is_tried_again_after_a_pause() {
    let bed = Bed::new();
    let path = bed.folder.path().join(FILE);
    // A folder in the place of the file.
    std::fs::create_dir(&path).unwrap();
    let mut writer = bed.writer();
    bed.add(&record(1, "/a"), TransferCause::Miss, 5);
    let error = writer.write().unwrap_err().to_string();
    std::fs::remove_dir(&path).unwrap();
    assert_eq!(writer.write().unwrap_err().to_string(), error);
    bed.clock.advance(Duration::from_millis(5_000));
    writer.write().unwrap();
    assert_eq!(writer.answer(&all()).unwrap().wan.received, 5);
}

#[test]
fn open_file_is_kept_after_a_failed_write() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    bed.add(&record(1, "/a"), TransferCause::Miss, 5);
    writer.write().unwrap();
    let trigger = "CREATE TRIGGER fail BEFORE INSERT ON line BEGIN SELECT RAISE(ABORT, 'no'); END";
    let database = writer.database.as_ref().unwrap();
    database.connection.execute_batch(trigger).unwrap();
    // A file that is opened anew forgets this.
    database.connection.execute_batch("CREATE TEMP TABLE mark (a)").unwrap();
    bed.add(&record(1, "/a"), TransferCause::Miss, 6);
    writer.write().unwrap_err();
    let database = writer.database.as_ref().unwrap();
    database.connection.execute_batch("DROP TRIGGER fail; DROP TABLE temp.mark").unwrap();
    writer.write().unwrap();
    assert_eq!(writer.answer(&all()).unwrap().wan.received, 11);
}
