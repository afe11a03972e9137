"""The Redis engine: one server, a replicated set behind Sentinel, or a cluster; Redis 6.2 and later, or Valkey."""

from windlass.engines.redis.engine import RedisEngine

__all__ = ["RedisEngine"]
