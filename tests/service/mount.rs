//! Requests to an app that is mounted in another one.

use crate::support::service::Setup;

#[test]
fn what_is_below_its_path_reaches_it_and_it_knows_where_it_is() {
    let service = Setup::new("workers = 2\n[app]\nmount = true\nword = 'outer'").serve();
    let mut client = service.client();
    for (path, status, body) in [
        ("/inner/where", 200, "/inner /where /inner/where"),
        (
            "/inner/where?a=1&b=%2f",
            200,
            "/inner /where?a=1&b=%2f /inner/where?a=1&b=%2f",
        ),
        ("/word", 200, "outer"),
        // Neither has the other's.
        ("/where", 404, ""),
        ("/inner/word", 404, ""),
        ("/innermost/where", 404, ""),
    ] {
        let answer = client.get(path).expect("an answer");
        assert_eq!(
            (answer.status, answer.text()),
            (status, body),
            "{path}: {}",
            answer.head
        );
    }
    assert_eq!(service.stop(), 0);
}
