//! Handlers against servers on this machine.

use h2::server::SendResponse;
use http::Response;
use k8s_openapi::api::core::v1::{GRPCAction, HTTPHeader, TCPSocketAction};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const LIMIT: Duration = Duration::from_mins(2);

/// A runtime without containers.
struct Nothing;

impl Runtime for Nothing {
    fn start(
        &self,
        _: stint_runtime::Bundle,
    ) -> stint_runtime::BoxFuture<'_, Result<stint_runtime::Started, stint_runtime::StartError>> {
        unreachable!("nothing is started here")
    }

    fn wait<'a>(
        &'a self,
        id: &'a ContainerId,
    ) -> stint_runtime::BoxFuture<'a, Result<stint_runtime::Exit, stint_runtime::Error>> {
        Box::pin(std::future::ready(Err(stint_runtime::Error::NotFound(id.clone()))))
    }

    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        _: stint_runtime::ProcessSpec,
    ) -> stint_runtime::BoxFuture<'a, Result<stint_runtime::ExecHandle, stint_runtime::ExecError>> {
        Box::pin(std::future::ready(Err(stint_runtime::ExecError::NotRunning(id.clone()))))
    }

    fn signal(&self, _: &ContainerId, _: i32) -> Result<(), stint_runtime::Error> {
        Ok(())
    }

    fn kill(&self, _: &ContainerId) -> Result<(), stint_runtime::Error> {
        Ok(())
    }

    fn remove<'a>(&'a self, _: &'a ContainerId) -> stint_runtime::BoxFuture<'a, Result<(), stint_runtime::Error>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn recover(&self, _: &std::path::Path) -> Result<Option<stint_runtime::ContainerState>, stint_runtime::Error> {
        Ok(None)
    }
}

fn target() -> Target {
    let ports = vec![ContainerPort { name: Some("web".to_owned()), container_port: 8080, ..ContainerPort::default() }];
    Target {
        runtime: Arc::new(Nothing),
        id: ContainerId::new("c").unwrap(),
        container: Arc::new(Container { ports: Some(ports), ..Container::default() }),
        address: Some("127.0.0.1".to_owned()),
        place: Place::default(),
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that nobody listens on, and what keeps it so.
fn closed_port() -> (tokio::net::TcpSocket, u16) {
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    (held, port)
}

fn get(port: u16, path: &str) -> Probe {
    let port = IntOrString::Int(i32::from(port));
    let header = |name: &str, value: &str| HTTPHeader { name: name.to_owned(), value: value.to_owned() };
    let http_headers = Some(vec![header("X-Who", "me"), header("Host", "example.org")]);
    let get = HTTPGetAction { path: Some(path.to_owned()), port, http_headers, ..HTTPGetAction::default() };
    Probe { http_get: Some(get), ..Probe::default() }
}

/// Answers one request by its path, and hands back its head.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, port: u16) -> String {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap() == 0 {
            return head;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    let response = match path {
        "/ok" => "200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        "/hop" => "302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "/away" => format!("302 Found\r\nlocation: http://localhost:{port}/ok\r\ncontent-length: 4\r\n\r\naway"),
        "/loop" => "302 Found\r\nlocation: /loop\r\ncontent-length: 0\r\n\r\n".to_owned(),
        _ => "503 Service Unavailable\r\ncontent-length: 6\r\n\r\nsecret".to_owned(),
    };
    stream.write_all(format!("HTTP/1.1 {response}").as_bytes()).await.unwrap();
    stream.shutdown().await.ok();
    head
}

fn serve(listener: TcpListener, port: u16) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut heads = vec![];
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let head = answer(stream, port).await;
            let last = head.starts_with("GET /last ");
            heads.push(head);
            if last {
                return heads;
            }
        }
    })
}

#[tokio::test]
async fn http_is_judged_by_its_status_and_the_body_stays_secret() {
    let (listener, port) = listen().await;
    let server = serve(listener, port);
    let ask = async |path: &str| target().probe(&get(port, path), LIMIT).await;
    assert_eq!(ask("/ok").await, Answer::Success);
    assert_eq!(ask("/hop").await, Answer::Success);
    let away = "Probe terminated redirects, Response body: away";
    assert_eq!(ask("/away").await, Answer::Warning(away.to_owned()));
    assert_eq!(ask("/no").await, Answer::Failure("HTTP probe failed with statuscode: 503".to_owned()));
    let Answer::Failure(fault) = ask("/loop").await else { panic!("it goes round and round") };
    assert!(fault.ends_with("stopped after 10 redirects"), "{fault}");
    ask("last").await;
    let heads = server.await.unwrap();
    let first = heads[0].to_lowercase();
    for line in ["x-who: me", "host: example.org", "user-agent: kube-probe/1.36", "accept: */*", "connection: close"] {
        assert!(first.contains(&format!("{line}\r\n")), "{line}: {first}");
    }
}

#[tokio::test]
async fn https_is_asked_without_a_look_at_the_certificate() {
    stint_image::choose_crypto();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["nobody".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        answer(stream, port).await
    });
    let mut probe = get(port, "/ok");
    probe.http_get.as_mut().unwrap().scheme = Some("HTTPS".to_owned());
    assert_eq!(target().probe(&probe, LIMIT).await, Answer::Success);
    assert!(server.await.unwrap().starts_with("GET /ok "));
}

#[tokio::test]
async fn a_port_that_nobody_listens_at_is_told_as_go_tells_it() {
    let (_held, port) = closed_port();
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    let http = target().probe(&get(port, "/ok"), LIMIT).await;
    assert_eq!(http, Answer::Failure(format!("Get \"http://127.0.0.1:{port}/ok\": {refused}")));
    let number = i32::from(port);
    let tcp = TCPSocketAction { port: IntOrString::Int(number), ..TCPSocketAction::default() };
    let tcp = Probe { tcp_socket: Some(tcp), ..Probe::default() };
    assert_eq!(target().probe(&tcp, LIMIT).await, Answer::Failure(refused.clone()));
    let grpc = Probe { grpc: Some(GRPCAction { port: number, service: None }), ..Probe::default() };
    let told = format!("error: failed to connect service at \"127.0.0.1:{port}\": {refused}");
    assert_eq!(target().probe(&grpc, LIMIT).await, Answer::Failure(told));
}

#[tokio::test]
async fn a_server_that_says_nothing_runs_out_of_time() {
    let (listener, port) = listen().await;
    let number = i32::from(port);
    let tcp = TCPSocketAction { port: IntOrString::Int(number), host: Some("localhost".to_owned()) };
    let tcp = Probe { tcp_socket: Some(tcp), ..Probe::default() };
    assert_eq!(target().probe(&tcp, LIMIT).await, Answer::Success, "it listens");
    let short = Duration::from_millis(200);
    let http = target().probe(&get(port, "/ok"), short).await;
    let told = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(http, Answer::Failure(format!("Get \"http://127.0.0.1:{port}/ok\": {told}")));
    let grpc = Probe { grpc: Some(GRPCAction { port: number, service: None }), ..Probe::default() };
    let told = "timeout: health rpc did not complete within 200ms";
    assert_eq!(target().probe(&grpc, short).await, Answer::Failure(told.to_owned()));
    drop(listener);
}

/// A health server that answers `status` for the service `s`, and does not know others.
async fn health(mut listener: TcpListener) {
    loop {
        let (stream, _) = accept(&mut listener).await;
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, response))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            tokio::spawn(reply(request.into_body(), response));
        }
    }
}

async fn accept(listener: &mut TcpListener) -> (TcpStream, std::net::SocketAddr) {
    listener.accept().await.unwrap()
}

async fn reply(mut body: h2::RecvStream, mut response: SendResponse<bytes::Bytes>) {
    let message = body.data().await.unwrap().unwrap();
    let head = Response::builder().header("content-type", "application/grpc");
    let known: Option<&'static [u8]> = match &message[..] {
        [0, 0, 0, 0, 0] => Some(&[0, 0, 0, 0, 2, 8, 1]),
        [0, 0, 0, 0, 3, 0x0a, 1, b's'] => Some(&[0, 0, 0, 0, 2, 8, 2]),
        _ => None,
    };
    let Some(known) = known else {
        let head = head.header("grpc-status", "5").header("grpc-message", "unknown service");
        response.send_response(head.body(()).unwrap(), true).unwrap();
        return;
    };
    let mut stream = response.send_response(head.body(()).unwrap(), false).unwrap();
    stream.send_data(bytes::Bytes::from_static(known), false).unwrap();
    let trailers = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))];
    stream.send_trailers(trailers.into_iter().collect()).unwrap();
}

#[tokio::test]
async fn grpc_health_is_asked_by_service() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(health(listener));
    let ask = async |service: Option<&str>| {
        let grpc = GRPCAction { port: i32::from(port), service: service.map(str::to_owned) };
        target().probe(&Probe { grpc: Some(grpc), ..Probe::default() }, LIMIT).await
    };
    assert_eq!(ask(None).await, Answer::Success);
    let unhealthy = "service unhealthy (responded with \"NOT_SERVING\")";
    assert_eq!(ask(Some("s")).await, Answer::Failure(unhealthy.to_owned()));
    let unknown = "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service";
    assert_eq!(ask(Some("other")).await, Answer::Failure(unknown.to_owned()));
    server.abort();
}

#[test]
fn ports_have_numbers_and_names() {
    let container = target().container;
    let ports = container.ports.as_deref().unwrap();
    let of = |port| resolve(&port, ports);
    let name = |name: &str| IntOrString::String(name.to_owned());
    assert_eq!(of(IntOrString::Int(80)), Ok(80));
    assert_eq!(of(name("web")), Ok(8080));
    assert_eq!(of(name("81")), Ok(81));
    assert_eq!(of(name("nobody")), Err("port nobody not found".to_owned()));
    assert_eq!(of(IntOrString::Int(70_000)), Err("invalid port number: 70000".to_owned()));
    assert_eq!(join("::1", 80), "[::1]:80");
}

#[tokio::test]
async fn what_can_not_be_asked_is_no_failure() {
    let exec = k8s_openapi::api::core::v1::ExecAction { command: Some(vec!["true".to_owned()]) };
    let exec = Probe { exec: Some(exec), ..Probe::default() };
    assert!(matches!(target().probe(&exec, LIMIT).await, Answer::Errored(_)), "the container is gone");
    let nowhere = Target { address: None, ..target() };
    let errored = nowhere.probe(&get(80, "/"), LIMIT).await;
    assert_eq!(errored, Answer::Errored("the pod has no address".to_owned()));
}
