//! HTTP server of the API.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ApiSettings;
use super::answer::{ApiBody, CutOff, Problem, json_answer, list};
use super::controls::{Controls, Request};
use super::faults::Fault;
use super::objects::{Listing, Objects, Query};
use super::query::{LIMIT_DEFAULT, Parameters};
use super::route::{Route, Target};

/// Page of a proxy, in place of an answer.
const HTML: &str = "<!DOCTYPE html><html><head><title>Just a moment</title></head><body></body></html>";

/// A running API. It stops when it is dropped.
pub struct ClerkApi {
    address: SocketAddr,
    controls: Controls,
    _tasks: JoinSet<()>,
}

impl ClerkApi {
    /// Starts the API of an instance on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Fails if no port can be bound.
    pub async fn start(objects: Arc<dyn Objects>, settings: ApiSettings) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let controls = Controls::new(&settings);
        let api = Arc::new(Api { objects, settings, controls: controls.clone(), errors: AtomicU64::new(1) });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, api));
        Ok(Self { address, controls, _tasks: tasks })
    }

    /// Returns the address of the API.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL, which ends with `/v1`: the value for `CLERK_API_URL`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns the controls.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }
}

async fn accept(listener: TcpListener, api: Arc<Api>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, api.clone()));
                }
                // No file descriptor is free: a connection must close first.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, api: Arc<Api>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let api = api.clone();
        async move { api.respond(&request).await }
    });
    // A client that closes the connection is not an error here.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// State that all connections share.
struct Api {
    objects: Arc<dyn Objects>,
    settings: ApiSettings,
    controls: Controls,
    /// Number of the next error.
    errors: AtomicU64,
}

impl Api {
    /// Returns the answer to a request. An error closes the connection.
    async fn respond(&self, request: &hyper::Request<Incoming>) -> Result<Response<ApiBody>, CutOff> {
        let route = Route::find(request.uri().path());
        let header = |name: &str| request.headers().get(name)?.to_str().ok().map(str::to_owned);
        let mut seen = Request {
            path: route.as_ref().map_or("other", |route| route.template).to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            status: 0,
            version: header("clerk-api-version"),
        };
        let latency = self.controls.latency();
        if latency > Duration::ZERO {
            tokio::time::sleep(latency).await;
        }
        let fault = self.controls.take_fault(&seen.path);
        match &fault {
            Some(Fault::Hang) => {
                self.controls.record(seen);
                return std::future::pending().await;
            }
            Some(Fault::Disconnect) => {
                self.controls.record(seen);
                return Err(CutOff);
            }
            _ => {}
        }
        let answer = self.answer(request, route.as_ref(), &seen, fault.as_ref());
        let mut answer =
            answer.unwrap_or_else(|problem| problem.answer(self.errors.fetch_add(1, Ordering::Relaxed)));
        if fault == Some(Fault::TruncatedBody) {
            answer.body_mut().cut();
        }
        if let Some(date) = self.date() {
            answer.headers_mut().insert(DATE, date);
        }
        seen.status = answer.status().as_u16();
        self.controls.record(seen);
        Ok(answer)
    }

    fn answer(
        &self,
        request: &hyper::Request<Incoming>,
        route: Option<&Route>,
        seen: &Request,
        fault: Option<&Fault>,
    ) -> Result<Response<ApiBody>, Problem> {
        match fault {
            Some(Fault::TooManyRequests { retry_after }) => {
                return Err(Problem::TooManyRequests { retry_after: *retry_after });
            }
            Some(Fault::Unauthorized) => return Err(Problem::WrongKey),
            Some(Fault::Forbidden) => return Err(Problem::Forbidden),
            Some(Fault::ServerError(status)) => return Err(Problem::Server(*status)),
            Some(Fault::Html) => {
                let mut answer = json_answer(200, HTML.to_owned());
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
                return Ok(answer);
            }
            Some(Fault::Body(body)) => return Ok(json_answer(200, body.clone())),
            _ => {}
        }
        self.authorize(request)?;
        self.controls.admit().map_err(|seconds| Problem::TooManyRequests { retry_after: Some(seconds) })?;
        let route = route.filter(|_| request.method() == Method::GET).ok_or(Problem::NoSuchObject)?;
        let parameters = Parameters::parse(&seen.query);
        let query = Query::read(route, &parameters)?;
        Ok(json_answer(200, self.content(&route.target, query, seen, fault)?))
    }

    fn authorize(&self, request: &hyper::Request<Incoming>) -> Result<(), Problem> {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = header.and_then(|header| header.strip_prefix("Bearer ")).ok_or(Problem::NoKey)?;
        if key == self.settings.key { Ok(()) } else { Err(Problem::WrongKey) }
    }

    fn content(
        &self,
        target: &Target,
        mut query: Query,
        seen: &Request,
        fault: Option<&Fault>,
    ) -> Result<String, Problem> {
        match target {
            Target::Instance => Ok(self.instance()),
            Target::Count(table) => {
                query.limit = 0;
                let total = self.page(table, &query, fault)?.total;
                Ok(json!({ "object": "total_count", "total_count": total }).to_string())
            }
            Target::List { table, organization } => {
                let is_unknown = |id: &String| self.objects.get("organizations", id, false).is_none();
                if organization.as_ref().is_some_and(is_unknown) {
                    return Err(Problem::NoSuchObject);
                }
                if fault == Some(&Fault::LimitCutTo10) {
                    query.limit = query.limit.min(LIMIT_DEFAULT);
                }
                let page = self.page(table, &query, fault)?;
                self.controls.page_is_read(seen);
                Ok(list(&page, *table == "users"))
            }
            Target::One { table, id, organization } => {
                let object = self.objects.get(table, id, query.with_members_count);
                let is_there = |object: &String| {
                    fault != Some(&Fault::EmptyPage)
                        && organization.as_ref().is_none_or(|id| belongs_to(object, id))
                };
                let object = object.filter(is_there).ok_or(Problem::NoSuchObject)?;
                Ok(match fault {
                    Some(fault) => fault.spoiled(object),
                    None => object,
                })
            }
        }
    }

    fn page(&self, table: &'static str, query: &Query, fault: Option<&Fault>) -> Result<Listing, Problem> {
        let unknown = |_| Problem::parameter("starting_after", "is not the id of a user");
        let mut page = self.objects.list(table, query).map_err(unknown)?;
        if let Some(fault) = fault {
            fault.spoil(&mut page);
        }
        Ok(page)
    }

    fn instance(&self) -> String {
        let id = self.controls.instance_id().unwrap_or_else(|| self.objects.instance_id());
        let instance = json!({
            "object": "instance",
            "id": id,
            "environment_type": self.settings.environment,
            "allowed_origins": null,
            "workspace_id": null,
        });
        instance.to_string()
    }

    /// Returns the value of the header `Date`.
    fn date(&self) -> Option<HeaderValue> {
        let seconds = self.settings.clock.now().as_millis() / 1000 + self.controls.clock_offset_seconds();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?);
        HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok()
    }
}

fn belongs_to(object: &str, organization: &str) -> bool {
    let object: Value = serde_json::from_str(object).unwrap_or_default();
    object.get("organization_id").and_then(Value::as_str) == Some(organization)
}
