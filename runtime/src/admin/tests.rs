use axum::body::{Body, to_bytes};
use axum::http::Request;
use parking_lot::Mutex;
use tower::ServiceExt;

use super::*;

async fn get_from(router: &Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn router_with_disk_check() -> (Router, Arc<Mutex<Result<(), String>>>) {
    let disk = Arc::new(Mutex::new(Ok(())));
    let seen = disk.clone();
    let admin = Admin::new("worker", "1.2.3", Registry::new())
        .ready_check("registered", Arc::new(|| Ok(())))
        .ready_check("disk", Arc::new(move || seen.lock().clone()));
    (admin.into_router(), disk)
}

#[tokio::test]
async fn readiness_follows_its_checks_and_liveness_does_not() {
    let (router, disk) = router_with_disk_check();
    assert_eq!(get_from(&router, "/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
    let (_, verbose) = get_from(&router, "/readyz?verbose").await;
    assert_eq!(verbose, "[+] registered: ok\n[+] disk: ok\nready\n");

    *disk.lock() = Err("/data is full".to_owned());
    let (status, text) = get_from(&router, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "[-] disk: /data is full\nnot ready\n");
    let (_, verbose) = get_from(&router, "/readyz?verbose=1").await;
    assert_eq!(verbose, "[+] registered: ok\n[-] disk: /data is full\nnot ready\n");
    assert_eq!(get_from(&router, "/livez").await, (StatusCode::OK, "ok\n".to_owned()));
}

#[tokio::test]
async fn metrics_version_and_a_roles_routes_are_served() {
    let registry = Registry::new();
    telemetry::register_process_metrics(&registry, "1.2.3").unwrap();
    let own = Router::new().route("/state", get(|| async { "open" }));
    let router = Admin::new("master", "1.2.3", registry).routes(own).into_router();
    let (status, text) = get_from(&router, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("mallorn_build_info{version=\"1.2.3\"} 1"), "{text}");
    let (_, version) = get_from(&router, "/version").await;
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    assert_eq!(version, serde_json::json!({ "name": "mallorn", "role": "master", "version": "1.2.3" }));
    assert_eq!(get_from(&router, "/state").await, (StatusCode::OK, "open".to_owned()));
    let (status, text) = get_from(&router, "/metric").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("/metrics"), "{text}");
}

/// The bounds below HTTP, on an in-memory pipe and with the clock paused.
mod bounds {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::connection::{Bounded, REQUEST_BYTES_MAX, SILENCE_MAX};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_and_bytes_read_do_not_prolong_it() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Bounded::new(server, None);
        let started = clock::now();
        let drip = async {
            loop {
                clock::sleep(SILENCE_MAX / 10).await;
                if client.write_all(b"x").await.is_err() {
                    break;
                }
            }
        };
        let mut sink = Vec::new();
        let error = tokio::select! {
            () = drip => unreachable!("the server's side is still open"),
            read = server.read_to_end(&mut sink) => read.unwrap_err(),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(clock::now() - started < SILENCE_MAX * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_the_connection() {
        let (_client, server) = tokio::io::duplex(1024);
        let mut server = Bounded::new(server, None);
        let error = server.write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_gives_room_and_time_for_the_next_request() {
        let (mut client, server) = tokio::io::duplex(REQUEST_BYTES_MAX * 2);
        let mut server = Bounded::new(server, None);
        let mut request = vec![0; REQUEST_BYTES_MAX];
        for _ in 0..3 {
            client.write_all(&request).await.unwrap();
            server.read_exact(&mut request).await.unwrap();
            clock::sleep(SILENCE_MAX / 2).await;
            server.write_all(b"answer").await.unwrap();
        }
        client.write_all(&request).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let mut sink = Vec::new();
        let error = server.read_to_end(&mut sink).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

/// Over real sockets; the simulated network has tests of its own.
#[cfg(not(feature = "sim"))]
mod served {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::connection::CONNECTIONS_MAX;
    use super::*;
    use crate::net::Stream;
    use crate::task;

    const WITHIN: Duration = Duration::from_secs(10);

    async fn serve() -> (String, Shutdown, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = Shutdown::new();
        let admin = Admin::new("worker", "1.2.3", Registry::new());
        let served = task::spawn(admin.serve(listener, shutdown.clone()));
        (address, shutdown, served)
    }

    async fn ask(address: &str, request: &[u8]) -> String {
        let mut stream = Stream::connect(address, WITHIN).await.unwrap();
        // The server may close while a request beyond its bounds is still being written.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = clock::timeout(WITHIN, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn answers_probes_survives_garbage_and_ends_on_shutdown() {
        let (address, shutdown, served) = serve().await;
        let probe = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        assert!(ask(&address, probe).await.starts_with("HTTP/1.1 200 OK"));
        let garbage = ask(&address, &[0xff; 512]).await;
        assert!(!garbage.contains("200 OK"), "{garbage}");
        let mut huge = b"GET /livez HTTP/1.1\r\nx: ".to_vec();
        huge.resize(connection::REQUEST_BYTES_MAX * 4, b'y');
        assert!(!ask(&address, &huge).await.contains("200 OK"));
        assert!(ask(&address, probe).await.starts_with("HTTP/1.1 200 OK"));

        let idle = Stream::connect(&address, WITHIN).await.unwrap();
        shutdown.trigger();
        clock::timeout(WITHIN, served).await.unwrap().unwrap().unwrap();
        drop(idle);
        assert!(Stream::connect(&address, WITHIN).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_until_another_ends() {
        let (address, _shutdown, _served) = serve().await;
        let probe = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = Stream::connect(&address, WITHIN).await.unwrap();
            stream.write_all(probe).await.unwrap();
            let mut first = [0; 12];
            clock::timeout(WITHIN, stream.read_exact(&mut first)).await.unwrap().unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            held.push(stream);
        }
        let mut waiting = Stream::connect(&address, WITHIN).await.unwrap();
        waiting.write_all(probe).await.unwrap();
        let mut first = [0; 12];
        let early = clock::timeout(Duration::from_millis(50), waiting.read_exact(&mut first)).await;
        assert!(early.is_err(), "answered beyond the limit");
        held.pop();
        clock::timeout(WITHIN, waiting.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
}
