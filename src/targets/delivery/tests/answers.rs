//! What a worker does with the answer to a loaded record.

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_record_is_answered() {
    let target = Scripted::new(&[]);
    let mut bench = Bench::new(&target);
    bench.send(1, &[]);
    let Report::RecordLoaded { answer, .. } = bench.next().await else { panic!() };
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(target.events(), [Event::RecordLoaded]);
    answer.send(Answer::default()).unwrap();
    assert_eq!(bench.confirmed().await, 1);
}

/// This includes deliveries that are still in the worker's inbox: they too were sent before the answer.
#[tokio::test(start_paused = true)]
async fn the_records_of_everything_that_was_sent_before_the_answer_are_corrected() {
    let target = Scripted::new(&[]);
    let mut bench = Bench::new(&target);
    let claims = |applied| {
        let (confirmed, settled) = (Lsn::new(300), Lsn::new(200));
        Record { confirmed, settled, rules: Some("a b".into()), ..record(applied) }
    };
    let send = |bench: &mut Bench, record| {
        let (ticket, batch) = (bench.ticket(), Batch::default());
        bench.handle.send(Shipment { ticket, delivery: Delivery { batch, record } }).expect("room");
    };
    send(&mut bench, claims(1));
    let Report::RecordLoaded { answer, .. } = bench.next().await else { panic!("no record was loaded") };
    tokio::time::sleep(Duration::from_millis(1)).await;
    send(&mut bench, claims(2));
    let correction = Answer { confirmed_at_most: Lsn::new(250), lists_no_rules: true, ..Answer::default() };
    answer.send(correction).expect("the worker waits");
    let later = Record { sequence: 1, ..claims(3) };
    send(&mut bench, later.clone());
    let corrected = |applied| Record { confirmed: Lsn::new(250), rules: None, ..claims(applied) };
    for expected in [corrected(1), corrected(2), later] {
        let confirmed = loop {
            match bench.next().await {
                Report::Confirmed { delivery, .. } => break delivery.record,
                report => assert!(matches!(report, Report::Up { .. }), "{report:?}"),
            }
        };
        assert_eq!(confirmed, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_dropped_is_no_answer() {
    let target = Scripted::new(&[]);
    let mut bench = Bench::new(&target);
    bench.send(1, &[]);
    drop(bench.next().await);
    bench.answer().await;
    assert_eq!(bench.confirmed().await, 1);
    assert_eq!(target.events(), [Event::RecordLoaded, Event::RecordLoaded, wrote(1, &[])]);
}
