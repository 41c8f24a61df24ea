//! Packages up and down.

use bytes::Bytes;
use serde_json::json;
use tw_api::{ClientError, PackageReply};
use tw_model::Code;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_what_its_digest_says_and_applied_only_when_it_is_here() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    // Larger than any one piece that is read or sent.
    let tar: Bytes = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let digest = blake3::hash(&tar).to_hex().to_string();
    let path = format!("/v1/packages/{digest}");
    let web = [job(
        "web",
        json!({ "packages": [{ "path": "app", "digest": digest }] }),
    )];
    let planned = plan(&server.client, &web).await;
    let plan_digest = planned["digest"].as_str().unwrap();

    assert!(!server.client.exists(&path).await.unwrap());
    let refused = refusal(apply_plan(&server.client, &web, plan_digest).await);
    assert_eq!(refused.code, Code::PackageInvalid);
    assert!(
        refused.message.contains("'app'") && refused.message.contains("web"),
        "{refused}"
    );

    let torn = tar.slice(..2_999_999);
    let wrong = server.client.put_bytes::<PackageReply>(&path, torn).await;
    assert_eq!(refusal(wrong).code, Code::PackageInvalid);
    assert!(!server.client.exists(&path).await.unwrap());

    for _ in 0..2 {
        let kept: PackageReply = server.client.put_bytes(&path, tar.clone()).await.unwrap();
        assert_eq!(kept.size_bytes, 3_000_000);
    }
    assert!(server.client.exists(&path).await.unwrap());
    assert_eq!(server.client.get_bytes(&path).await.unwrap(), tar);
    apply_plan(&server.client, &web, plan_digest).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_have_a_largest_size_and_no_paths() {
    let folder = Folder::new();
    let mut config = config(&folder.state());
    config.package_bytes_max = 1000;
    let server = Server::start(config).await;
    let large = Bytes::from(vec![7; 1001]);
    let path = format!("/v1/packages/{}", blake3::hash(&large).to_hex());
    let refused = refusal(server.client.put_bytes::<PackageReply>(&path, large).await);
    assert!(refused.message.contains("larger than"), "{refused}");
    for bad in ["nothing", "..%2Fcontroller.token"] {
        let asked = server
            .client
            .get_bytes(&format!("/v1/packages/{bad}"))
            .await;
        assert_eq!(refusal(asked).code, Code::PackageInvalid);
    }
    let missing = server
        .client
        .get_bytes(&format!("/v1/packages/{}", "0".repeat(64)))
        .await;
    assert!(matches!(missing, Err(ClientError::Refused(body)) if body.status() == 404));
    server.stop().await;
}
