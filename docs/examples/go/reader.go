// Reads through a cache that coherd keeps coherent with Postgres. See docs/reading.md.
//
// If the cache is down or slow, a request waits for a time-out and then reads the database.
// On Redis 6, `coherd lua --eval get` prints the script for redis.NewScript, instead of the function.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

const (
	leaseTTL = 10 * time.Second // more than the slowest read of the database, which statement_timeout bounds
	valueTTL = time.Hour
	patience = 200 * time.Millisecond // how long to wait for another reader that is loading the same key
)

// Load reads the database in a snapshot of its own.
type Load func(context.Context) (string, error)

var hashTag = regexp.MustCompile(`^[^{]*\{[^}]+\}`)

// Leased returns the value of a key of a `delete` rule.
func Leased(ctx context.Context, cache *redis.Client, key string, load Load) (string, error) {
	lease := "{" + key + "}:lease"
	if hashTag.MatchString(key) {
		lease = key + ":lease"
	}
	found, content, err := getOrLease(ctx, cache, key, lease)
	if err != nil {
		return load(ctx)
	}
	if found {
		return content, nil
	}
	value, err := load(ctx)
	if err != nil {
		return "", err
	}
	// 0 means refused: the row has changed in the meantime. This reader may still use what it read. After an error, the
	// value is not stored either.
	_ = cache.FCall(ctx, "coherd_fill", []string{key, lease}, content, valueTTL.Milliseconds(), value).Err()
	return value, nil
}

// getOrLease returns true and the value; or false and a token, if this reader is first or has waited long enough.
func getOrLease(ctx context.Context, cache *redis.Client, key, lease string) (bool, string, error) {
	for deadline := time.Now().Add(patience); ; {
		nonce := make([]byte, 16)
		if _, err := rand.Read(nonce); err != nil {
			return false, "", err
		}
		keys := []string{key, lease}
		reply, err := cache.FCall(ctx, "coherd_get", keys, leaseTTL.Milliseconds(), hex.EncodeToString(nonce)).Slice()
		if err != nil {
			return false, "", err
		}
		if len(reply) < 2 {
			return false, "", fmt.Errorf("coherd_get answered %v", reply)
		}
		content, _ := reply[1].(string)
		found := reply[0] == int64(1)
		if found || reply[2] == int64(1) || time.Now().After(deadline) {
			return found, content, nil
		}
		select {
		case <-ctx.Done():
			return false, "", ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Versioned returns the value of a key of a `bump` rule.
func Versioned(ctx context.Context, cache *redis.Client, key string, load Load) (string, error) {
	version, err := cache.FCall(ctx, "coherd_version", []string{key + ":version"}).Text()
	if err != nil {
		return load(ctx)
	}
	entry := key + ":v" + version
	cached, err := cache.Get(ctx, entry).Result()
	if err == nil {
		return cached, nil
	}
	value, failed := load(ctx)
	if failed == nil && errors.Is(err, redis.Nil) {
		_ = cache.Set(ctx, entry, value, valueTTL).Err() // after an error it is not stored
	}
	return value, failed
}

// Own is like Leased, but never older than the commit after which token was taken. load reads the primary.
func Own(ctx context.Context, cache *redis.Client, record, key string, token uint64, load Load) (string, error) {
	settled, err := cache.HGet(ctx, record, "settled").Uint64() // read before the value, and from the same server
	if err != nil || settled < token {
		return load(ctx)
	}
	return Leased(ctx, cache, key, load)
}

type app struct {
	cache    *redis.Client
	database *pgxpool.Pool
	record   string
}

// row loads a row as JSON. Outside Begin each statement is a transaction of its own, so it sees what was committed
// before it began.
func (a *app) row(table, id string) Load {
	return func(ctx context.Context) (value string, err error) {
		// A missing row is "null", and is cached as well: coherd invalidates on INSERT too.
		query := "SELECT coalesce((SELECT to_json(t) FROM " + table + " t WHERE id = $1::bigint), 'null')::text"
		err = a.database.QueryRow(ctx, query, id).Scan(&value)
		return value, err
	}
}

func (a *app) rename(ctx context.Context, id, name string) (token string, err error) {
	if _, err = a.database.Exec(ctx, "UPDATE users SET name = $1 WHERE id = $2::bigint", name, id); err != nil {
		return "", err
	}
	// Take the token after COMMIT, in a transaction of its own. Keep it in the session.
	err = a.database.QueryRow(ctx, "SELECT coherd.token()::text").Scan(&token)
	return token, err
}

func (a *app) answer(ctx context.Context, words []string) (string, error) {
	switch command, id := words[0], words[1]; command {
	case "user":
		return Leased(ctx, a.cache, "user:"+id, a.row("users", id))
	case "product":
		return Versioned(ctx, a.cache, "product:"+id, a.row("products", id))
	case "rename":
		return a.rename(ctx, id, words[2])
	case "own":
		token, err := strconv.ParseUint(words[2], 10, 64)
		if err != nil {
			return "", err
		}
		return Own(ctx, a.cache, a.record, "user:"+id, token, a.row("users", id))
	default:
		return "", fmt.Errorf("no such command: %s", command)
	}
}

func main() {
	ctx := context.Background()
	options, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
	options.MaxRetries = 1
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["statement_timeout"] = "5s"
	database, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	record := os.Getenv("COHERD_RECORD")
	if record == "" {
		record = "coherd:coherd" // coherd:<slot>
	}
	a := &app{cache: redis.NewClient(options), database: database, record: record}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer, err := a.answer(ctx, strings.Fields(lines.Text()))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(answer)
	}
}
