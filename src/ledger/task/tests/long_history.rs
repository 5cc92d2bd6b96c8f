//! Cost of the pages' reports with a long history, in relation to one reading of the whole file: the relation holds in any
//! build and on any machine.

use super::*;

const HOUR: i64 = 3_600;

/// As dense as a busy relay's: causes and types of each hour of 90 days, and of each minute of two; as many names as the
/// ledger keeps.
const HISTORY: &str = "
    CREATE TEMP TABLE causes AS SELECT value FROM
        json_each('[\"client-miss\",\"revalidation\",\"prefetch\",\"full-set\",\"full-set-no-delta\",\"pass-through\"]');
    CREATE TEMP TABLE points AS
        WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 2879) SELECT n FROM n;
    INSERT INTO line SELECT 60, :now - n * 60, 0, 'manager', value, 'type-' || (n % 8), 'full', 1, 1000, 10, 0
        FROM points, causes;
    INSERT INTO line SELECT 3600, :now - a.n * 3600, 0, 'manager', value, 'type-' || b.n, 'full', 1, 1000, 10, 0
        FROM points AS a, points AS b, causes WHERE a.n BETWEEN 48 AND 2159 AND b.n < 8;
    INSERT INTO site SELECT 60, :now - n * 60, '', 1000, 800, 10, 8 FROM points;
    INSERT INTO site SELECT 3600, :now - a.n * 3600, CASE b.n WHEN 0 THEN '' ELSE 'type-' || b.n END, 1000, 800, 10, 8
        FROM points AS a, points AS b WHERE a.n BETWEEN 48 AND 2159 AND b.n <= 8;
    INSERT INTO clients SELECT 3600, :now - a.n * 3600, '10.1.' || b.n, 'client-miss', 'type-1', '', 1, 1000, 10, 0
        FROM points AS a, points AS b WHERE a.n < 48 AND b.n < 1000;
    INSERT INTO clients SELECT 86400, :now - a.n * 86400, '10.1.' || b.n, 'client-miss', 'type-1', '', 1, 1000, 10, 0
        FROM points AS a, points AS b WHERE a.n BETWEEN 2 AND 90 AND b.n < 100;
    INSERT INTO objects SELECT step, at, '/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/' || client, cause, '', 1, 1000, 10, 0
        FROM clients;
    INSERT INTO client_groups SELECT step, at, 'g' || client, cause, content_type, 1, 1000, 10, 0 FROM clients
        WHERE client LIKE '%0';
    INSERT INTO incidents SELECT step, at, client, 'full-set', content_type, 1, 1000 FROM clients;
    INSERT INTO waits SELECT step, at, client, 'deferred', 1, 100 FROM clients;
";

const SCAN: &str = "
    SELECT (SELECT sum(received + length(cause)) FROM line), (SELECT sum(sent) FROM site),
        (SELECT sum(received + length(client)) FROM clients), (SELECT sum(received + length(object)) FROM objects),
        (SELECT sum(received) FROM client_groups), (SELECT sum(bytes) FROM incidents), (SELECT sum(waits) FROM waits)
";

/// Time that this thread has had a processor: other work of the machine does not count.
fn processor_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

/// The shortest of a few times.
fn shortest(mut work: impl FnMut()) -> Duration {
    let times = (0..4).map(|_| {
        let begun = processor_time();
        work();
        processor_time() - begun
    });
    times.min().unwrap()
}

#[test]
fn pages_of_a_long_history_cost_few_readings_of_it() {
    let bed = Bed::new();
    let mut writer = bed.writer();
    writer.write().unwrap();
    let now = bed.clock.now() / 1_000;
    let history = HISTORY.replace(":now", &(now - now % HOUR).to_string());
    writer.database.as_ref().unwrap().connection.execute_batch(&history).unwrap();
    assert!(bed.size() > 20 << 20, "{}", bed.size());
    // The first reading brings the file into memory.
    let scan = shortest(|| {
        let connection = &writer.database.as_ref().unwrap().connection;
        let sum: i64 = connection.query_row(SCAN, [], |row| row.get(0)).unwrap();
        assert!(sum > 0);
    });
    let ago = |days: u64| bed.clock.now() - i64::try_from(days * DAY * 1_000).unwrap();
    let sums = |days: u64| TrafficQuery { since: ago(days), ..TrafficQuery::default() };
    let content = TrafficQuery { top: 1_000, without_names: true, ..sums(7) };
    let line = |days: u64| TrafficQuery { top: 20, ..sums(days) };
    for (page, queries, has_incidents, most) in [
        ("overview", vec![sums(1), sums(30)], true, 3),
        ("content", vec![content], false, 3),
        ("line, a day", vec![line(1)], false, 4),
        ("line, 30 days", vec![line(30)], false, 10),
    ] {
        let time = shortest(|| {
            for query in &queries {
                assert!(writer.answer(query).unwrap().wan.received > 0);
            }
            if has_incidents {
                writer.database.as_ref().unwrap().incidents(bed.clock.now()).unwrap();
            }
        });
        println!("{page}: {time:?}, a reading of all {scan:?}");
        assert!(time <= scan * most, "{page}: {time:?} is above {most} readings of {scan:?}");
    }
}
