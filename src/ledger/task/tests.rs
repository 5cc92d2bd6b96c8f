mod failures;
mod long_history;

use std::net::IpAddr;

use super::*;
use crate::report::WaitRow;
use gupd_config::clock::UnixMillis;
use gupd_net::traffic::{
    Incident, IncidentCounts, TrafficCounts, TransferCause, TransferLabels, TransferRecord, WaitReason,
};
use prometheus::Registry;

const T0: UnixMillis = 1_780_000_000_000;
const MINUTE: u64 = 60;
const DAY: u64 = 86_400;

fn record(client: u32, object: &str) -> TransferRecord {
    TransferRecord {
        upstream: "manager".into(),
        is_peer: false,
        labels: TransferLabels { content_type: Some("catalog".into()), ..TransferLabels::default() },
        client: Some(IpAddr::from(client.to_be_bytes())),
        object: object.into(),
        from_revision: None,
    }
}

fn of_group(record: TransferRecord, group: &str) -> TransferRecord {
    let labels = TransferLabels { group: Some(group.into()), ..record.labels };
    TransferRecord { labels, ..record }
}

fn received(received: u64) -> TrafficCounts {
    TrafficCounts { transfers: 1, received, ..TrafficCounts::default() }
}

struct Bed {
    clock: Clock,
    traffic: Arc<TrafficRecorder>,
    folder: tempfile::TempDir,
    max_size: u64,
}

impl Bed {
    fn new() -> Self {
        let (folder, traffic) = (tempfile::tempdir().unwrap(), Arc::<TrafficRecorder>::default());
        traffic.start();
        Self { clock: Clock::manual(T0), traffic, folder, max_size: 64 << 20 }
    }

    fn writer(&self) -> LedgerWriter {
        LedgerWriter {
            path: self.folder.path().join(FILE),
            max_size: self.max_size,
            traffic: self.traffic.clone(),
            sampler: Box::new(SiteSample::default),
            clock: self.clock.clone(),
            database: None,
            unopened: None,
            folder: None,
            written: SiteSample::default(),
            process_received: 0,
            is_failing: false,
            events: PendingEvents::default(),
        }
    }

    fn add(&self, record: &TransferRecord, cause: TransferCause, bytes: u64) {
        self.traffic.add(self.clock.now(), record, cause, received(bytes));
    }

    fn size(&self) -> u64 {
        let files = std::fs::read_dir(self.folder.path()).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }
}

fn all() -> TrafficQuery {
    TrafficQuery { since: 0, top: MAX, ..TrafficQuery::default() }
}

const MAX: usize = crate::report::MAX_ROWS;

#[test]
fn sums_stay_exact_while_history_ages() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    let mut expected = 0;
    for day in 0..200_u64 {
        for client in 0..300_u32 {
            let bytes = u64::from(client) * 1_000 + day;
            bed.add(&record(client, &format!("/{day}/{client}")), TransferCause::Miss, bytes);
            expected += bytes;
        }
        writer.write().unwrap();
        bed.clock.advance(Duration::from_secs(DAY));
    }
    let report = writer.answer(&all()).unwrap();
    assert_eq!(report.wan.received, expected);
    assert_eq!(report.causes.iter().map(|row| row.sums.received).sum::<u64>(), expected);
    assert_eq!(report.clients.iter().map(|row| row.sums.received).sum::<u64>(), expected);
    assert_eq!(report.process_received, expected);
    assert_eq!(report.clients[0].client, "others");
    assert_eq!(report.groups.iter().map(|row| row.sums.received).sum::<u64>(), expected);
    // Clients and objects of past days are the largest hundred.
    let names: i64 = writer
        .database
        .as_ref()
        .unwrap()
        .connection
        .query_row(
            "SELECT count(*) FROM clients WHERE step = 86400 GROUP BY at ORDER BY 1 DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(names, 101);
    let last_days = TrafficQuery { since: T0 + 198 * 86_400_000, ..all() };
    assert!(writer.answer(&last_days).unwrap().wan.received < expected / 50);
}

#[test]
fn ten_thousand_clients_fit_the_default_size() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    for hour in 0..12_u32 {
        for client in 0..10_000 {
            let record = record(client, &format!("/content/{{A}}/{hour}/{client}.dax"));
            let record = of_group(record, &format!("branch-{}", client % 1_000));
            bed.add(&record, TransferCause::Miss, 1);
            bed.traffic.add_wait(
                bed.clock.now(),
                IpAddr::from(client.to_be_bytes()),
                WaitReason::Deferred,
                5,
            );
        }
        writer.write().unwrap();
        bed.clock.advance(Duration::from_secs(60 * MINUTE));
    }
    println!("10,000 clients in 1,000 groups, 12 hours: {} bytes", bed.size());
    assert!(bed.size() <= bed.max_size, "{}", bed.size());
    let report = writer.answer(&all()).unwrap();
    assert_eq!(report.wan.received, 120_000);
    assert_eq!((report.groups.len(), report.groups[0].sums.received), (1_000, 120));
}

#[test]
fn report_attributes_causes_to_groups() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    for (client, group, cause, bytes) in [
        (1, Some("branch-a"), TransferCause::Miss, 5),
        (2, Some("branch-a"), TransferCause::FullSet, 90),
        (3, Some("branch-b"), TransferCause::Miss, 7),
        (4, None, TransferCause::Prefetch, 3),
    ] {
        let record = record(client, "/a");
        let record = group.map_or_else(|| record.clone(), |group| of_group(record.clone(), group));
        bed.add(&record, cause, bytes);
    }
    writer.write().unwrap();
    let report = writer.answer(&all()).unwrap();
    let groups: Vec<_> =
        report.groups.iter().map(|row| (&*row.group, &*row.cause, row.sums.received)).collect();
    let expected = [("branch-a", "full-set", 95), ("branch-b", "client-miss", 7), ("relay", "prefetch", 3)];
    assert_eq!(groups, expected);
    let of_one = writer.answer(&TrafficQuery { group: Some("branch-a".to_owned()), ..all() }).unwrap();
    let causes: Vec<_> = of_one.causes.iter().map(|row| (&*row.cause, row.sums.received)).collect();
    assert_eq!(causes, [("full-set", 90), ("client-miss", 5)]);
    assert_eq!((of_one.groups.len(), of_one.clients.len(), of_one.objects.len()), (1, 0, 0));
    let absent = writer.answer(&TrafficQuery { group: Some("none".to_owned()), ..all() }).unwrap();
    assert!(absent.causes.is_empty() && absent.groups.is_empty());
}

#[test]
fn file_without_groups_is_continued() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    bed.add(&record(1, "/a"), TransferCause::Miss, 5);
    writer.write().unwrap();
    let database = writer.database.take().unwrap();
    database.connection.execute_batch("DROP TABLE client_groups").unwrap();
    drop(database);
    bed.add(&of_group(record(1, "/a"), "branch-a"), TransferCause::Miss, 6);
    writer.write().unwrap();
    let report = writer.answer(&all()).unwrap();
    assert_eq!((report.wan.received, report.groups[0].sums.received), (11, 6));
}

#[test]
fn flood_of_names_stays_within_a_small_maximum() {
    let bed = Bed { max_size: 16 << 20, ..Bed::new() };
    let mut writer = bed.writer();
    for hour in 0..60_u32 {
        for number in 0..2_000 {
            let object = format!("/{}/{hour}/{number}", "long".repeat(100));
            bed.add(&record(hour << 16 | number, &object), TransferCause::PassThrough, 1);
        }
        writer.write().unwrap();
        bed.clock.advance(Duration::from_secs(60 * MINUTE));
    }
    assert!(bed.size() <= bed.max_size, "{}", bed.size());
    assert_eq!(writer.answer(&all()).unwrap().wan.received, 120_000);
}

#[test]
fn report_explains_a_client() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    let labels =
        TransferLabels { content_type: Some("virus-definitions-64".into()), ..TransferLabels::default() };
    let full = TransferRecord {
        labels,
        from_revision: Some("240531001".into()),
        ..record(1, "/content/a/full.zip")
    };
    bed.add(&full, TransferCause::NoDelta, 500);
    bed.add(&record(1, "/index"), TransferCause::Revalidation, 20);
    bed.add(&record(2, "/index"), TransferCause::Revalidation, 30);
    bed.traffic.add_wait(T0, IpAddr::from([0, 0, 0, 1]), WaitReason::Deferred, 7_000);
    bed.traffic.add_wait(T0, IpAddr::from([0, 0, 0, 1]), WaitReason::Deferred, 1_000);
    writer.write().unwrap();
    let report = writer.answer(&TrafficQuery { client: Some("0.0.0.1".to_owned()), ..all() }).unwrap();
    let causes: Vec<_> = report.causes.iter().map(|row| (&*row.explanation, row.sums.received)).collect();
    let expected = [
        ("full set because the manager has no delta from revision 240531001", 500),
        ("stored content was compared with the upstream's", 20),
    ];
    assert_eq!(causes, expected);
    assert_eq!(
        report.waits,
        [WaitRow { client: "0.0.0.1".to_owned(), reason: "deferred".to_owned(), waits: 2, millis: 8_000 }]
    );
    let report = writer.answer(&TrafficQuery { object: Some("index".to_owned()), ..all() }).unwrap();
    let objects: Vec<_> = report.objects.iter().map(|row| (&*row.object, row.sums.received)).collect();
    assert_eq!(objects, [("/index", 50)]);
}

#[test]
fn two_processes_add_to_the_same_rows() {
    let (bed, other) = (Bed::new(), Bed::new());
    let (mut old, mut new) = (bed.writer(), LedgerWriter { traffic: other.traffic.clone(), ..bed.writer() });
    for _ in 0..3 {
        bed.add(&record(1, "/a"), TransferCause::Miss, 5);
        other.add(&record(1, "/a"), TransferCause::Miss, 7);
        old.write().unwrap();
        new.write().unwrap();
    }
    let report = new.answer(&all()).unwrap();
    assert_eq!((report.wan.received, report.causes.len()), (36, 1));
}

#[test]
fn clock_set_back_loses_nothing() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    for back in [0, DAY, 400 * DAY] {
        bed.clock.set_back(Duration::from_secs(back));
        bed.add(&record(1, "/a"), TransferCause::Miss, 5);
        writer.write().unwrap();
    }
    assert_eq!(writer.answer(&all()).unwrap().wan.received, 15);
}

#[tokio::test(start_paused = true)]
async fn task_writes_every_minute_and_at_its_end() {
    let bed = Bed::new();
    let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
    config.store.dir = bed.folder.path().to_owned();
    let metrics = Arc::new(LedgerMetrics::register(&Registry::new()).unwrap());
    let sampler = Box::new(|| SiteSample { sent: 100, saved: 90, ..SiteSample::default() });
    let (ledger, task) = Ledger::new(&config, bed.traffic.clone(), sampler, metrics, bed.clock.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    bed.add(&record(1, "/a"), TransferCause::Miss, 5);
    let report = ledger.query(all()).await.unwrap();
    assert_eq!((report.wan.received, report.clients_total.sent), (5, 100));
    bed.add(&record(1, "/a"), TransferCause::Miss, 6);
    stop.cancel();
    running.await.unwrap();
    assert!(matches!(ledger.query(all()).await, Err(QueryError::Stopping)));
    let mut writer = bed.writer();
    writer.write().unwrap();
    assert_eq!(writer.answer(&all()).unwrap().wan.received, 11);
}

#[test]
fn client_counts_once_however_often_it_takes_a_full_set() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    let full_set = |client: u32, content_type: &str, count, bytes| {
        let client = IpAddr::from(client.to_be_bytes());
        bed.traffic.add_incident(
            client,
            Incident::FullSet,
            &content_type.into(),
            IncidentCounts { count, bytes },
        );
    };
    for _ in 0..50 {
        full_set(1, "virus-definitions", 1, 100);
    }
    full_set(1, "ips", 1, 10);
    full_set(2, "virus-definitions", 0, 60);
    full_set(2, "virus-definitions", 1, 40);
    bed.traffic.add_refused(IpAddr::from([192, 0, 2, 9]));
    writer.write().unwrap();
    let report = writer.open().unwrap().incidents(T0).unwrap();
    assert_eq!((report.full_sets.clients, report.full_sets.bytes), (2, 210));
    assert_eq!(report.full_sets.named, ["0.0.0.1", "0.0.0.2"]);
    assert_eq!((report.refused.clients, &*report.refused.named), (1, &["192.0.2.9".to_owned()][..]));
    assert_eq!(report.seen, ["0.0.0.1", "0.0.0.2"], "a refused client is not served");
    bed.clock.advance(Duration::from_secs(26 * 3_600));
    let report = writer.open().unwrap().incidents(bed.clock.now()).unwrap();
    assert_eq!((report.full_sets.clients, report.refused.clients), (0, 0));
}

#[test]
fn events_survive_a_restart_and_a_ledger_of_an_earlier_version() {
    let bed = Bed::new();
    let alarm = AlarmCondition {
        kind: "store-degraded".to_owned(),
        subject: String::new(),
        severity: Severity::Critical,
        message: "store full".to_owned(),
        action: "repair the disk".to_owned(),
    };
    let observation = AlarmObservation { conditions: vec![alarm], undecided: Vec::new() };
    let mut writer = bed.writer();
    writer.write().unwrap();
    // As that of an earlier version, which has neither table.
    let connection = &writer.database.as_ref().unwrap().connection;
    connection.execute_batch("DROP TABLE events; DROP TABLE incidents;").unwrap();
    for _restart in 0..3 {
        writer = bed.writer();
        writer.events.push(bed.clock.now(), EventEntry::Observation(observation.clone()));
        writer.write_events().unwrap();
    }
    let page = writer.open().unwrap().event_page(EventQuery { before: None, limit: 10 }).unwrap();
    assert_eq!((page.alarms.len(), page.events.len()), (1, 1));
    assert_eq!((page.events[0].at, &*page.events[0].message), (T0, "store full"));
}

#[test]
fn rates_have_both_lines_by_interval() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    let counts = Arc::new(std::sync::Mutex::new(SiteSample::default()));
    let sample = counts.clone();
    writer.sampler = Box::new(move || sample.lock().unwrap().clone());
    for _ in 0..30 {
        bed.add(&record(1, "/a"), TransferCause::Miss, 600);
        counts.lock().unwrap().requests += 1;
        counts.lock().unwrap().sent += 900;
        writer.write().unwrap();
        bed.clock.advance(Duration::from_secs(MINUTE));
    }
    let points = writer.open().unwrap().rates(T0 - 900_000, 900).unwrap();
    assert_eq!(
        points
            .iter()
            .map(|point| (point.received, point.sent))
            .fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1)),
        (18_000, 27_000)
    );
    assert!(points.len() <= 3 && points.iter().all(|point| point.at % 900 == 0), "{points:?}");
    assert!(points.iter().all(|point| point.received <= 15 * 600), "{points:?}");
}

#[test]
fn report_without_rows_has_the_same_sums() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    bed.add(&record(1, "/a"), TransferCause::Miss, 600);
    writer.write().unwrap();
    let [sums, rows] = [0, 5].map(|top| writer.answer(&TrafficQuery { top, ..all() }).unwrap());
    assert_eq!((sums.wan, sums.clients_total, sums.causes.len()), (rows.wan, rows.clients_total, 0));
    assert_eq!(rows.causes.len(), 1);
}
