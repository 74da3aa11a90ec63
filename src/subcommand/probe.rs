//! `wait` and `shutdown`: asking a proxy on this machine, for images without a shell or curl.

use std::net::IpAddr;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::Instant;

use crate::admin::quit;
use crate::config::Http as Place;
use crate::error::Error;
use crate::google::http::{Call, Http, Url};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Asks `/startup` until it says yes.
pub(super) async fn wait(place: &Place, longest: Duration) -> Result<(), Error> {
    let host = match place.address {
        // Where it listens everywhere it is reached here.
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "::1".to_owned(),
        ip => ip.to_string(),
    };
    let url = Url::plain(&host, place.port).join("/startup");
    let deadline = Instant::now() + longest;
    let http = Http::new();
    loop {
        let why = match http.send(Call::get(url.clone())).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                "it serves no probes; start it with --health-check".to_owned()
            }
            Ok(answer) => String::from_utf8_lossy(&answer.body).trim().replace('\n', "; "),
            Err(error) => error.to_string(),
        };
        if Instant::now() + LOOK_EVERY > deadline {
            let shown = humantime::format_duration(longest);
            return Err(Error::runtime(
                format!("the proxy is not up after {shown} (--max): {url}"),
                why,
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks for `/quitquitquit`.
pub(super) async fn shutdown(port: u16) -> Result<(), Error> {
    let url = Url::plain("127.0.0.1", port).join(quit::PATH);
    let failed = |why: String| {
        Error::runtime(
            format!(
                "cannot stop the proxy by {url} (it runs with --quitquitquit on --admin-port?)"
            ),
            why,
        )
    };
    match Http::new().send(Call::post_form(url.clone(), &[])).await {
        Ok(answer) if answer.status == StatusCode::OK => Ok(()),
        Ok(answer) => Err(failed(format!("it answered HTTP {}", answer.status.as_u16()))),
        Err(error) => Err(failed(error.to_string())),
    }
}
