//! Clients that take their time, on a clock that jumps.

use axum::routing::post;
use stint_store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use super::*;
use crate::serve::room::Room;

/// The client's end of a connection to a server that repeats bodies.
async fn connect() -> DuplexStream {
    let repeat = |body: Body| async {
        match axum::body::to_bytes(body, 1 << 20).await {
            Ok(bytes) => (StatusCode::OK, bytes),
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string().into()),
        }
    };
    let metrics = Metrics::new(Store::in_memory(), stint_controllers::Metrics::default());
    let http = Http::new(Router::new().route("/", post(repeat)), Arc::new(metrics));
    let (client, server) = duplex(1 << 16);
    let guest = Room::new(1).enter().await;
    let connection = http.connection();
    tokio::spawn(async move {
        let _http = http;
        connection.serve(server, Peer::InProcess, guest).await;
    });
    client
}

/// All that the server says until it closes the connection, and how long that took.
async fn rest(client: &mut DuplexStream) -> (String, Duration) {
    let (mut said, began) = (Vec::new(), Instant::now());
    client.read_to_end(&mut said).await.unwrap();
    (String::from_utf8_lossy(&said).into_owned(), began.elapsed())
}

fn about(took: Duration, expected: Duration) {
    let off = took.abs_diff(expected);
    assert!(off < Duration::from_secs(2), "{took:?}, not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_or_half_of_something_is_let_go() {
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "POST / HTTP/1.1\r\nHost: x\r\n"] {
        let mut client = connect().await;
        client.write_all(beginning.as_bytes()).await.unwrap();
        let (said, took) = rest(&mut client).await;
        about(took, IDLE);
        assert!(!said.contains("200"), "{beginning}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
    let mut client = connect().await;
    let began = Instant::now();
    for byte in b"POST / HTTP/1.1\r\nHost: a-very-long-name".iter().cycle() {
        sleep(Duration::from_secs(5)).await;
        if client.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    assert!(began.elapsed() <= IDLE + Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_byte_by_byte_is_not_waited_for() {
    let mut client = connect().await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(client);
    let dripping = tokio::spawn(async move {
        while writing.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let (mut said, began) = (vec![0; 1 << 10], Instant::now());
    let length = reading.read(&mut said).await.unwrap();
    let said = String::from_utf8_lossy(&said[..length]).into_owned();
    about(began.elapsed(), BODY);
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("it did not come within 60 s"), "{said}");
    dripping.abort();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_a_request_keeps_it() {
    let mut client = connect().await;
    let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx";
    for _ in 0..3 {
        sleep(IDLE.saturating_sub(Duration::from_secs(5))).await;
        client.write_all(request).await.unwrap();
        assert_ne!(client.read(&mut [0; 1 << 10]).await.unwrap(), 0);
    }
    about(rest(&mut client).await.1, IDLE);
}

/// One that answers pings, and asks nothing.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_of_http_2_is_closed_though_it_is_alive() {
    let mut client = connect().await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (began, mut pings, mut farewell) = (Instant::now(), 0, false);
    loop {
        let mut head = [0; 9];
        if client.read_exact(&mut head).await.is_err() {
            break;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.unwrap();
        match (head[3], head[4]) {
            (4, 0) => client.write_all(b"\0\0\0\x04\x01\0\0\0\0").await.unwrap(),
            (6, 0) => {
                pings += 1;
                let _ = client.write_all(&[&b"\0\0\x08\x06\x01\0\0\0\0"[..], &payload].concat()).await;
            }
            (7, _) => farewell = true,
            _ => {}
        }
    }
    about(began.elapsed(), IDLE);
    assert!(pings > 1 && farewell, "{pings} pings, and a farewell: {farewell}");
}
