//! Creation of connections, each to one server.

use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisFuture, RedisResult, TlsMode, Value};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::address::{Address, Form, tcp};
use crate::slots::Node;
use crate::tls;

/// Connection to one server. Dropping it closes it.
pub(crate) struct Connection {
    commands: MultiplexedConnection,
    /// Task that reads and writes, if the library does not own it.
    _driver: JoinSet<()>,
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.commands.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.commands.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.commands.get_db()
    }
}

/// Connects to this node of a cluster, to the master that the sentinels name, or to the only server. Each
/// answer must arrive within `answer_timeout`: the library's default of 500 ms would give up on calls that
/// the server has carried out. The connection never reconnects by itself, so its answers always come from the
/// server that executed the write.
///
/// Boxed, because the compiler can't handle a future that contains so many others.
pub(crate) fn connect<'a>(
    address: &'a Address,
    node: Option<&'a Node>,
    connect_timeout: Duration,
    answer_timeout: Duration,
) -> BoxFuture<'a, RedisResult<Connection>> {
    Box::pin(connect_unboxed(address, node, connect_timeout, answer_timeout))
}

async fn connect_unboxed(
    address: &Address,
    node: Option<&Node>,
    connect_timeout: Duration,
    answer_timeout: Duration,
) -> RedisResult<Connection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(Some(answer_timeout));
    if let Form::Sentinel(service) = &address.form {
        let mut client = sentinels(address, service)?.build()?;
        let connection = client.get_async_connection_with_config(&config).await?;
        address.met();
        return Ok(owned(connection));
    }
    let (host, port) = node.unwrap_or(&address.hosts[0]);
    let info = address.login(address.host(host, *port))?;
    if !address.tls {
        let client = redis::Client::open(info)?;
        return client.get_multiplexed_async_connection_with_config(&config).await.map(owned);
    }
    let connecting = async {
        let stream = tls::connect(host, *port, &address.trust, &tcp()).await?;
        address.met();
        MultiplexedConnection::new_with_config(info.redis_settings(), stream, config).await
    };
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let (commands, driver) = timeout(connect_timeout, connecting).await.map_err(late)??;
    let mut task = JoinSet::new();
    task.spawn(driver);
    Ok(Connection { commands, _driver: task })
}

fn owned(commands: MultiplexedConnection) -> Connection {
    Connection { commands, _driver: JoinSet::new() }
}

fn sentinels(address: &Address, service: &str) -> RedisResult<SentinelClientBuilder> {
    let hosts = address.hosts.iter().map(|(host, port)| address.host(host, *port));
    let mut builder = SentinelClientBuilder::new(hosts, service, SentinelServerType::Master)?
        .set_client_to_redis_db(address.database)
        .set_client_to_redis_tcp_settings(tcp())
        .set_client_to_sentinel_tcp_settings(tcp());
    if let Some(user) = &address.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &address.password {
        builder = builder.set_client_to_redis_password(password);
    }
    if address.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(certificates) = address.certificates.as_ref().filter(|_| address.tls) {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates.clone());
    }
    Ok(builder)
}
