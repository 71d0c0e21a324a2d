//! Creation of connections, each to one server.

use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, RedisResult, TlsMode};

use crate::address::{Address, Form, tcp};
use crate::slots::Node;

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
) -> BoxFuture<'a, RedisResult<MultiplexedConnection>> {
    Box::pin(connect_unboxed(address, node, connect_timeout, answer_timeout))
}

async fn connect_unboxed(
    address: &Address,
    node: Option<&Node>,
    connect_timeout: Duration,
    answer_timeout: Duration,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(Some(answer_timeout));
    if let Form::Sentinel(service) = &address.form {
        let mut client = sentinels(address, service)?.build()?;
        return client.get_async_connection_with_config(&config).await;
    }
    let (host, port) = node.unwrap_or(&address.hosts[0]);
    let info = address.login(address.host(host, *port))?;
    let client = match &address.certificates {
        Some(certificates) if address.tls => redis::Client::build_with_tls(info, certificates.clone())?,
        _ => redis::Client::open(info)?,
    };
    client.get_multiplexed_async_connection_with_config(&config).await
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
