//! The read protocols: the functions that readers call in Redis, in each form in which a server can run them.

pub mod leases;
mod library;
mod races;
mod versions;

use coherd::targets::redis::lua::{FUNCTIONS, library};
use redis::{Connection, RedisError, RedisResult, ToRedisArgs, Value};

use crate::support::Redis;

/// A nonce as readers create it.
pub const NONCE: &str = "0123456789abcdef";

/// How a server runs the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `FCALL` of the library.
    Function,
    /// `EVAL` of the script that `coherd lua --eval` prints.
    Script,
}

/// The reply of `coherd_get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Value(Vec<u8>),
    Lease { token: Vec<u8>, first: bool },
}

/// A reader's connection.
pub struct Reader {
    pub connection: Connection,
    pub form: Form,
}

/// Runs `test` in each form that the server supports, each time on an empty server.
pub fn in_each_form(test: impl FnMut(&mut Reader)) {
    in_each_form_on(&Redis::start(), test);
}

/// Runs `test` in each form that `server` supports, and empties it before each.
pub fn in_each_form_on(server: &Redis, mut test: impl FnMut(&mut Reader)) {
    let mut connection = server.client();
    let loaded = redis::cmd("FUNCTION").arg(&["LOAD", "REPLACE", &library()]).query::<String>(&mut connection);
    let version: String = redis::cmd("INFO").arg("server").query(&mut connection).unwrap();
    let forms = match loaded {
        Ok(_) => [Form::Function, Form::Script].as_slice(),
        Err(error) => {
            assert!(version.contains("redis_version:6."), "{error}");
            &[Form::Script]
        }
    };
    for &form in forms {
        let mut reader = Reader { connection: server.client(), form };
        let () = reader.run(&["FLUSHALL"]).unwrap();
        println!("as {form:?}");
        test(&mut reader);
    }
}

/// The lease's name, computed from the text of the protocol and not with coherd's code.
pub fn lease_of(key: &[u8]) -> Vec<u8> {
    let open = key.iter().position(|byte| *byte == b'{');
    let length = open.and_then(|open| key[open + 1..].iter().position(|byte| *byte == b'}'));
    if length.is_some_and(|length| length > 0) { [key, b":lease"].concat() } else { [b"{", key, b"}:lease"].concat() }
}

impl Reader {
    /// Runs any command.
    pub fn run<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> RedisResult<T> {
        redis::cmd(command[0]).arg(&command[1..]).query(&mut self.connection)
    }

    /// Calls one function by its name without `coherd_`.
    pub fn call<A: ToRedisArgs>(&mut self, name: &str, keys: &[A], arguments: &[A]) -> RedisResult<Value> {
        let function = FUNCTIONS.iter().find(|function| function.name == name).expect("a function");
        let mut command = match self.form {
            Form::Function => redis::cmd("FCALL").arg(format!("coherd_{name}")).clone(),
            Form::Script => redis::cmd("EVAL").arg(function.script()).clone(),
        };
        command.arg(keys.len());
        keys.iter().chain(arguments).for_each(|argument| {
            command.arg(argument);
        });
        command.query(&mut self.connection)
    }

    /// Calls `coherd_get` with a lease of a minute.
    pub fn get_as(&mut self, key: &[u8], nonce: &str) -> Got {
        let reply = self.call("get", &[key, &lease_of(key)], &[b"60000", nonce.as_bytes()]).expect("coherd_get");
        let Value::Array(parts) = &reply else { panic!("{reply:?}") };
        match parts.as_slice() {
            [Value::Int(1), Value::BulkString(value)] => Got::Value(value.clone()),
            [Value::Int(0), Value::BulkString(token), Value::Int(first @ (0 | 1))] => {
                Got::Lease { token: token.clone(), first: *first == 1 }
            }
            _ => panic!("{reply:?}"),
        }
    }

    pub fn get(&mut self, key: &[u8]) -> Got {
        self.get_as(key, NONCE)
    }

    /// The token of a lease. Panics unless this reader gets it as the first.
    pub fn lease(&mut self, key: &[u8]) -> Vec<u8> {
        match self.get(key) {
            Got::Lease { token, first: true } => token,
            other => panic!("{other:?}"),
        }
    }

    /// Calls `coherd_fill` with a value that lives for a minute. Returns whether it was stored.
    pub fn fill(&mut self, key: &[u8], token: &[u8], value: &[u8]) -> bool {
        let reply = self.call("fill", &[key, &lease_of(key)], &[token, b"60000", value]).expect("coherd_fill");
        match reply {
            Value::Int(stored @ (0 | 1)) => stored == 1,
            other => panic!("{other:?}"),
        }
    }

    /// Calls `coherd_version` and parses the digits.
    pub fn version(&mut self, key: &str) -> u64 {
        match self.call("version", &[format!("{key}:version")], &[]).expect("coherd_version") {
            Value::BulkString(digits) => String::from_utf8(digits).unwrap().parse().expect("digits"),
            other => panic!("{other:?}"),
        }
    }

    pub fn unlink(&mut self, key: &[u8]) -> u64 {
        redis::cmd("UNLINK").arg(key).query(&mut self.connection).unwrap()
    }

    pub fn raw(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        redis::cmd("GET").arg(key).query(&mut self.connection).unwrap()
    }
}

/// Code and text of an error reply.
pub fn told(error: &RedisError) -> String {
    format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default())
}
