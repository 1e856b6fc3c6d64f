use std::sync::atomic::Ordering::Relaxed;

use tokio::io::AsyncWriteExt;

use crate::worker::testing::{Fixture, get, response, rest};

#[tokio::test]
async fn a_panic_is_a_500_with_a_request_id_and_the_connection_goes_on() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    for (count, path) in [(1, "/panic"), (2, "/panic-in-call")] {
        client.write_all(get(path).as_bytes()).await.unwrap();
        let (head, body) = response(&mut client).await;
        assert!(head.starts_with("http/1.1 500"), "{head}");
        assert!(
            head.contains(&format!("x-request-id: 7-1-{count}")),
            "{head}"
        );
        assert_eq!(body, "Internal Server Error\n");
        assert_eq!(fixture.server.meter.seat().panics.load(Relaxed), count);
    }
    client.write_all(get("/next").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/next");
    assert_eq!(fixture.server.meter.seat().in_flight.load(Relaxed), 0);
}

#[tokio::test]
async fn an_error_of_the_service_is_a_500() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/error").as_bytes()).await.unwrap();
    let (head, body) = response(&mut client).await;
    assert!(head.starts_with("http/1.1 500"), "{head}");
    assert!(
        !body.contains("database"),
        "the cause is for the log: {body}"
    );
    client.write_all(get("/next").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/next");
}

#[tokio::test]
async fn a_body_that_panics_cuts_the_response_off() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client
        .write_all((get("/panic-in-body") + &get("/next")).as_bytes())
        .await
        .unwrap();
    let answer = rest(&mut client).await;
    // Not the last chunk: the client must see that it is not whole.
    assert!(!answer.contains("0\r\n\r\n"), "{answer}");
    assert!(!answer.contains("/next"), "{answer}");
    fixture.server.tasks.over().await;
    assert_eq!(fixture.server.meter.seat().panics.load(Relaxed), 1);
    assert_eq!(fixture.server.meter.seat().in_flight.load(Relaxed), 0);
}
