"""Prints a line of keys.tsv for each key that a Python framework writes: python3 python_keys.py FRAMEWORK PORT."""
import asyncio
import datetime
import importlib.metadata
import json
import sys

import redis

FRAMEWORK, PORT = sys.argv[1], int(sys.argv[2])
URL = f"redis://127.0.0.1:{PORT}/0"
server = redis.Redis(port=PORT, decode_responses=True)
loop = asyncio.new_event_loop()

EMAIL = "Ann.Lee@example.com"
STAMP = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)


def line(package, what, template, row, write, hash="", only=None):
    """Runs `write` against an empty server and prints the one key that is then there (of those that contain `only`)."""
    server.flushall()
    result = write()
    if asyncio.iscoroutine(result):
        loop.run_until_complete(result)
    keys = [key for key in server.keys("*") if only is None or only in key]
    if len(keys) != 1:
        sys.exit(f"{package}, {what}: one key was expected, found {keys}")
    version = importlib.metadata.version(package)
    row = "null" if row is None else json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    print(package, version, what, template, hash, row, keys[0], sep="\t")


def django(package, backend):
    import django
    from django.conf import settings

    def cache(**more):
        return {"BACKEND": backend, "LOCATION": URL, **more}

    settings.configure(
        CACHES={
            "default": cache(),
            "prefixed": cache(KEY_PREFIX="shop", VERSION=2),
        },
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        SECRET_KEY="test",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["django.contrib.sessions"],
        USE_TZ=True,
        TIME_ZONE="UTC",
        LANGUAGE_CODE="en-us",
    )
    django.setup()
    from django.core.cache import caches

    plain, prefixed = caches["default"], caches["prefixed"]
    line(package, "cache.set", ":1:user:{id}", {"id": "7"}, lambda: plain.set(f"user:{7}", 1))
    line(package, "cache.set, KEY_PREFIX shop, VERSION 2", "shop:2:user:{id}", {"id": "7"},
         lambda: prefixed.set(f"user:{7}", 1))
    line(package, "cache.set with a boolean in an f-string", ":1:users:active:{active|bool:True,False}", {"active": "t"},
         lambda: plain.set(f"users:active:{True}", 1))
    line(package, "cache.set with None in an f-string", ":1:users:boss:{boss_id|default:None}", {"boss_id": None},
         lambda: plain.set(f"users:boss:{None}", 1))
    line(package, "cache.set with a date in an f-string", ":1:day:{day}", {"day": "2026-02-03"},
         lambda: plain.set(f"day:{STAMP.date()}", 1))
    line(package, "cache.set with an aware datetime, no microseconds",
         ":1:at:{at|date:%Y-%m-%d %H:%M:%S+00:00}", {"at": "2026-02-03 04:05:06+00"}, lambda: plain.set(f"at:{STAMP}", 1))
    exact = STAMP.replace(microsecond=789000)
    line(package, "cache.set with an aware datetime, microseconds", ":1:at:{at|date:%Y-%m-%d %H:%M:%S.%6f+00:00}",
         {"at": "2026-02-03 04:05:06.789+00"}, lambda: plain.set(f"at:{exact}", 1))
    if package == "django":
        django_pages(package)


def django_pages(package):
    from django.http import HttpResponse
    from django.template import Context, Engine
    from django.test import RequestFactory
    from django.views.decorators.cache import cache_page

    def fragment(text, **context):
        engine = Engine(libraries={"cache": "django.templatetags.cache"}, builtins=["django.templatetags.cache"])
        return lambda: engine.from_string(text).render(Context(context))

    line(package, "template fragment, one argument", ":1:template.cache.sidebar.{id}:", {"id": "7"},
         fragment("{% cache 500 sidebar id %}x{% endcache %}", id=7), "md5")
    line(package, "template fragment, two arguments", ":1:template.cache.sidebar.{id}:{email}:",
         {"id": "7", "email": EMAIL},
         fragment("{% cache 500 sidebar id email %}x{% endcache %}", id=7, email=EMAIL), "md5")
    line(package, "template fragment, a boolean argument", ":1:template.cache.sidebar.{id}:{active|bool:True,False}:",
         {"id": "7", "active": "f"},
         fragment("{% cache 500 sidebar id active %}x{% endcache %}", id=7, active=False), "md5")

    def page():
        request = RequestFactory().get("/users/7/")
        cache_page(60)(lambda _: HttpResponse("x"))(request)

    address = {"url": "http://testserver/users/7/"}
    header = ":1:views.decorators.cache.cache_header..{url|md5}.en-us.UTC"
    body = ":1:views.decorators.cache.cache_page..GET.{url|md5}.d41d8cd98f00b204e9800998ecf8427e.en-us.UTC"
    line(package, "cache_page, list of headers", header, address, page, only="cache_header")
    line(package, "cache_page, page without Vary", body, address, page, only="cache_page.")

    from django.contrib.sessions.backends.cached_db import SessionStore as CachedDb
    from django.core.management import call_command
    from django.contrib.sessions.backends.cache import SessionStore as Cached

    call_command("migrate", verbosity=0)
    key = "k7k2m5x0q1w3e4r5t6y7u8i9o0p1a2s3"
    for store in [Cached, CachedDb]:
        prefix = store.cache_key_prefix
        line(package, f"session, {store.__module__.rsplit('.', 1)[1]}", f":1:{prefix}{{session_key}}", {"session_key": key},
             lambda: store(key).save(must_create=True))


def profile(id):
    """At the top of the module, because Flask-Caching takes the function's qualified name into the key."""
    return "x"


def flask():
    from flask import Flask, render_template_string
    from flask_caching import Cache

    package = "flask-caching"
    app = Flask("shop")
    app.config.update(CACHE_TYPE="RedisCache", CACHE_REDIS_URL=URL, CACHE_KEY_PREFIX="flask_cache_")
    cache = Cache(app)

    @app.route("/users/<int:id>")
    @cache.cached(timeout=60)
    def user(id):
        return "x"

    @app.route("/search")
    @cache.cached(timeout=60, query_string=True)
    def search():
        return "x"

    memoized = cache.memoize(60)(profile)

    def fragment():
        with app.test_request_context("/"):
            render_template_string("{% cache 60, 'sidebar', id %}x{% endcache %}", id="7")

    client = app.test_client()
    line(package, "cache.set", "flask_cache_user:{id}", {"id": "7"}, lambda: cache.set("user:7", 1))
    line(package, "cached view", "flask_cache_view//users/{id}", {"id": "7"}, lambda: client.get("/users/7"))
    line(package, "template fragment, one argument", "flask_cache__template_fragment_cache_sidebar_{id}", {"id": "7"}, fragment)
    line(package, "memoize: the version of the function", "flask_cache___main__.profile_memver", None,
         lambda: memoized(7), only="_memver")


def dogpile():
    from dogpile.cache import make_region
    from dogpile.cache.util import sha1_mangle_key

    package = "dogpile.cache"

    def region(**more):
        return make_region(**more).configure("dogpile.cache.redis", arguments={"url": URL})

    plain = region()
    prefixed = region(key_mangler=lambda key: "shop:" + sha1_mangle_key(key))

    @plain.cache_on_arguments()
    def user(id):
        return "x"

    @plain.cache_on_arguments(namespace="profile")
    def user_in(id, lang):
        return "x"

    line(package, "region.set", "user:{id}", {"id": "7"}, lambda: plain.set("user:7", 1))
    line(package, "cache_on_arguments", "__main__:user|{id}", {"id": "7"}, lambda: user(7))
    line(package, "cache_on_arguments, namespace and two arguments", "__main__:user_in|profile|{id} {lang}",
         {"id": "7", "lang": "en"}, lambda: user_in(7, "en"))
    line(package, "region.set, sha1_mangle_key behind a prefix, the key is a column", "shop:{email|sha1}",
         {"email": EMAIL}, lambda: prefixed.set(EMAIL, 1))


def aiocache():
    from aiocache import Cache, cached

    package = "aiocache"
    place = {"endpoint": "127.0.0.1", "port": PORT}

    async def write(key, **more):
        async with Cache(Cache.REDIS, **place, **more) as cache:
            await cache.set(key, 1)

    @cached(cache=Cache.REDIS, **place)
    async def user(id):
        return "x"

    @cached(cache=Cache.REDIS, key_builder=lambda f, id: f"user:{id}", namespace="shop", **place)
    async def built(id):
        return "x"

    line(package, "set", "user:{id}", {"id": "7"}, lambda: write("user:7"))
    line(package, "set, namespace shop", "shop:user:{id}", {"id": "7"}, lambda: write("user:7", namespace="shop"))
    line(package, "cached, no key builder, a number", "__main__user({id},)\\[]", {"id": "7"}, lambda: user(7))
    line(package, "cached, no key builder, a string", "__main__user('{email}',)\\[]", {"email": EMAIL},
         lambda: user(EMAIL))
    line(package, "cached, key builder, namespace shop", "shop:user:{id}", {"id": "7"}, lambda: built(7))


RUN = {
    "django": lambda: django("django", "django.core.cache.backends.redis.RedisCache"),
    "django-redis": lambda: django("django-redis", "django_redis.cache.RedisCache"),
    "flask-caching": flask,
    "dogpile.cache": dogpile,
    "aiocache": aiocache,
}
RUN[FRAMEWORK]()
