//! One connection, whatever it leads to.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisFuture, RedisResult, TlsMode, Value};

use crate::address::{Address, Form, tcp};

/// A connection to one server, or to all nodes of a cluster.
pub(crate) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Connects. Every answer must come within `answer_timeout`: without it the crate's default of 500 ms
/// would cut off what the server has done all the same.
pub(crate) async fn connect(
    address: &Address,
    connect_timeout: Duration,
    answer_timeout: Duration,
) -> RedisResult<Connection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(Some(answer_timeout));
    match &address.form {
        Form::Single => {
            let (host, port) = &address.hosts[0];
            let info = address.login(address.host(host, *port))?;
            let client = match &address.certificates {
                Some(certificates) if address.tls => {
                    redis::Client::build_with_tls(info, certificates.clone())?
                }
                _ => redis::Client::open(info)?,
            };
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            Ok(Connection::Single(connection))
        }
        Form::Sentinel(service) => {
            let mut client = sentinels(address, service)?.build()?;
            Ok(Connection::Single(client.get_async_connection_with_config(&config).await?))
        }
        Form::Cluster => {
            let builder =
                cluster(address)?.connection_timeout(connect_timeout).response_timeout(answer_timeout);
            Ok(Connection::Cluster(builder.build()?.get_async_connection().await?))
        }
    }
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

fn cluster(address: &Address) -> RedisResult<ClusterClientBuilder> {
    let hosts = address.hosts.iter().map(|(host, port)| address.login(address.host(host, *port)));
    // Whether to try again is ours to decide: the crate's own 16 attempts can outlast any caller.
    let mut builder =
        ClusterClientBuilder::new(hosts.collect::<RedisResult<Vec<_>>>()?).retries(3).tcp_settings(tcp());
    if address.tls {
        builder = builder.tls(TlsMode::Secure);
    }
    if let Some(certificates) = address.certificates.as_ref().filter(|_| address.tls) {
        builder = builder.certs(certificates.clone());
    }
    Ok(builder)
}

impl Connection {
    /// Asks the server that holds this key.
    pub(crate) async fn ask_holder_of(&mut self, key: &str, command: Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(&command).await?.extract_error(),
            Self::Cluster(connection) => {
                let route = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                connection.route_command(command, RoutingInfo::SingleNode(route)).await
            }
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
