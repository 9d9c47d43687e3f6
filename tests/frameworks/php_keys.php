<?php
// Prints a line of keys.tsv for each key that a PHP framework writes: php php_keys.php FRAMEWORK PORT VERSION, where
// Debian's libraries are in the include path.
[$framework, $port, $version] = [$argv[1], (int) $argv[2], $argv[3]];
$server = new Redis();
$server->connect('127.0.0.1', $port);

// Runs $write against an empty server and prints the one key that is then there (of those that contain $only).
function line(string $what, string $template, ?array $row, callable $write, string $hash = '', string $only = ''): void
{
    global $framework, $version, $server;
    $server->flushAll();
    $write();
    $keys = array_values(array_filter($server->keys('*'), fn ($key) => $only === '' || str_contains($key, $only)));
    if (count($keys) !== 1) {
        fwrite(STDERR, "$framework, $what: one key was expected, found ".json_encode($keys)."\n");
        exit(1);
    }
    $row = json_encode($row, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
    echo implode("\t", [$framework, $version, $what, $template, $hash, $row, $keys[0]]), "\n";
}

function laravel(int $port): void
{
    require 'Illuminate/Redis/autoload.php';
    require 'Illuminate/Cache/autoload.php';
    $connector = new Illuminate\Redis\Connectors\PhpRedisConnector();
    $store = function (string $prefix, array $options) use ($connector, $port) {
        $connection = $connector->connect(['host' => '127.0.0.1', 'port' => $port], $options);
        $factory = new class($connection) implements Illuminate\Contracts\Redis\Factory {
            public function __construct(private $connection) {}
            public function connection($name = null) { return $this->connection; }
        };
        return new Illuminate\Cache\Repository(new Illuminate\Cache\RedisStore($factory, $prefix));
    };
    $id = ['id' => '7'];
    line('Cache::put, no prefixes', 'user:{id}', $id, fn () => $store('', [])->put('user:7', 1, 60));
    line('Cache::put, cache.prefix laravel_cache', 'laravel_cache:user:{id}', $id,
        fn () => $store('laravel_cache', [])->put('user:7', 1, 60));
    line('Cache::put, cache.prefix laravel_cache, redis prefix laravel_database_',
        'laravel_database_laravel_cache:user:{id}', $id,
        fn () => $store('laravel_cache', ['prefix' => 'laravel_database_'])->put('user:7', 1, 60));
    line('Cache::remember, no prefixes', 'user:{id}', $id, fn () => $store('', [])->remember('user:7', 60, fn () => 1));
    foreach (['t' => true, 'f' => false] as $text => $value) {
        line('Cache::put with '.($value ? 'true' : 'false').' in a string', 'users:active:{active|bool:1,}', ['active' => $text],
            fn () => $store('', [])->put("users:active:$value", 1, 60));
    }
    line('Cache::tags(users): the version of the tag, cache.prefix laravel_cache', 'laravel_cache:tag:users:key', null,
        fn () => $store('laravel_cache', [])->tags(['users'])->put('user:7', 1, 60), '', ':tag:');
}

function symfony(int $port): void
{
    global $server;
    require 'Psr/SimpleCache/autoload.php';
    require 'Symfony/Component/Cache/autoload.php';
    $id = ['id' => '7'];
    $plain = new Symfony\Component\Cache\Adapter\RedisAdapter($server, '');
    $shop = new Symfony\Component\Cache\Adapter\RedisAdapter($server, 'shop');
    $tagged = new Symfony\Component\Cache\Adapter\RedisTagAwareAdapter($server, 'shop');
    $simple = new Symfony\Component\Cache\Psr16Cache($shop);
    line('RedisAdapter::get, no namespace', 'user.{id}', $id, fn () => $plain->get('user.7', fn () => 1));
    line('RedisAdapter::get, namespace shop', 'shop:user.{id}', $id, fn () => $shop->get('user.7', fn () => 1));
    line('Psr16Cache::set, namespace shop', 'shop:user.{id}', $id, fn () => $simple->set('user.7', 1));
    line('RedisTagAwareAdapter::get, namespace shop', 'shop:user.{id}', $id, function () use ($tagged) {
        $tagged->get('user.7', function ($item) { $item->tag(['users']); return 1; });
    }, '', 'user.7');
}

$framework === 'laravel' ? laravel($port) : symfony($port);
