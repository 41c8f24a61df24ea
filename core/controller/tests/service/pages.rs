//! Pages in a browser: who may look, and at what.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tw_api::PageReply;

use crate::support::*;

/// What a browser gets: status, headers and body as one text.
fn ask(address: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let host = match headers.iter().any(|(name, _)| *name == "host") {
        true => String::new(),
        false => format!("host: {address}\r\n"),
    };
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n"
    )
    .expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_looks_at_pages_with_a_code_that_is_good_once() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    assert!(server.tcp.is_none(), "no port is open before it is needed");
    let _agent = Agent::start(&server.client, "m1").await;
    let evil = [job(
        "web",
        json!({ "owner": "<script>alert(1)</script>", "env": { "A": "<b>&" } }),
    )];
    let planned = plan(&server.client, &evil).await;
    let digest = planned["digest"].as_str().unwrap();

    let page: PageReply = server
        .client
        .post("/v1/page", &json!({ "plan": digest }))
        .await
        .unwrap();
    let url = page.url.strip_prefix("http://").unwrap();
    let (address, _) = url.split_once('/').unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let login = &url[address.len()..];

    let elsewhere = ask(address, login, &[("host", "evil.example")]);
    assert_eq!(status_of(&elsewhere), "403");
    let came_in = ask(address, login, &[]);
    assert_eq!(status_of(&came_in), "200");
    assert!(came_in.contains(&format!("/plans/{digest}")), "{came_in}");
    let cookie = came_in
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap();
    for word in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    let pass = cookie.split(';').next().unwrap();
    let used_up = ask(address, login, &[]);
    assert_eq!(status_of(&used_up), "403");
    assert!(
        used_up.contains("content-type: text/html") && used_up.contains("<p>`tw page` prints"),
        "{used_up}"
    );

    let path = format!("/plans/{digest}");
    let shown = ask(address, &path, &[("cookie", pass)]);
    assert_eq!(status_of(&shown), "200");
    assert!(
        shown.contains("content-security-policy: default-src 'none'"),
        "{shown}"
    );
    assert!(
        !shown.contains("<script") && shown.contains("web"),
        "{shown}"
    );
    for page in ["/", "/plans", "/style.css"] {
        assert_eq!(
            status_of(&ask(address, page, &[("cookie", pass)])),
            "200",
            "{page}"
        );
    }
    // It lets nobody do anything, and nobody from elsewhere look.
    for api in ["/v1/jobs", "/v1/plans", "/plansible", "/nowhere"] {
        assert_eq!(
            status_of(&ask(address, api, &[("cookie", pass)])),
            "403",
            "{api}"
        );
    }
    let foreign: [&[(&str, &str)]; 5] = [
        &[],
        &[("cookie", "twill=0")],
        &[("cookie", pass), ("origin", "http://evil.example")],
        &[("cookie", pass), ("host", "evil.example:80")],
        &[("cookie", pass), ("authorization", "Bearer wrong")],
    ];
    for headers in foreign {
        assert_eq!(
            status_of(&ask(address, &path, headers)),
            "403",
            "{headers:?}"
        );
    }
    let unknown = ask(
        address,
        &format!("/plans/{}", "0".repeat(64)),
        &[("cookie", pass)],
    );
    assert_eq!(status_of(&unknown), "404");
    assert!(unknown.contains("content-type: text/html"), "{unknown}");

    let page: PageReply = server.client.post("/v1/page", &json!({})).await.unwrap();
    let jobs = ask(address, &page.url["http://".len() + address.len()..], &[]);
    assert!(jobs.contains("url=/\">"), "it leads to the jobs: {jobs}");
    server.stop().await;
}
