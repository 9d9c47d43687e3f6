# Prints a line of keys.tsv for each key that Rails writes: ruby rails_keys.rb PORT.
require "json"
require "logger"
require "tmpdir"
require "active_support"
require "active_support/core_ext"
require "active_support/cache/redis_cache_store"
require "active_record"
require "action_controller"
require "redis"

PORT = ARGV.fetch(0).to_i
URL = "redis://127.0.0.1:#{PORT}/0"
SERVER = Redis.new(url: URL)

# Runs the block against an empty server and prints the one key that is then there.
def line(what, template, row, hash = "", package = "rails")
  SERVER.flushall
  yield
  keys = SERVER.keys("*")
  abort "#{package}, #{what}: one key was expected, found #{keys}" unless keys.length == 1
  puts [package, ActiveSupport.version, what, template, hash, JSON.generate(row), keys[0]].join("\t")
end

ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: ":memory:")
ActiveRecord::Schema.verbose = false
ActiveRecord::Schema.define do
  create_table(:users) { |t| t.string :email; t.timestamps precision: 6 }
  create_table(:line_items) { |t| t.timestamps precision: 6 }
end
class User < ActiveRecord::Base; end
module Shop
  class LineItem < ActiveRecord::Base
    self.table_name = "line_items"
  end
end

STAMP = Time.utc(2026, 2, 3, 4, 5, 6, 789_012)
STAMPED = { "id" => "7", "updated_at" => "2026-02-03 04:05:06.789012" }
USER = User.create!(id: 7, email: "Ann.Lee@example.com", created_at: STAMP, updated_at: STAMP)
ITEM = Shop::LineItem.create!(id: 7, created_at: STAMP, updated_at: STAMP)
plain = ActiveSupport::Cache::RedisCacheStore.new(url: URL)
shop = ActiveSupport::Cache::RedisCacheStore.new(url: URL, namespace: "shop")
id = { "id" => "7" }

line("Rails.cache.write", "user:{id}", id) { plain.write("user:7", 1) }
line("Rails.cache.write, namespace shop", "shop:user:{id}", id) { shop.write("user:7", 1) }
line("Rails.cache.fetch with an array", "user/{id}/posts", id) { plain.fetch(["user", 7, :posts]) { 1 } }
line("Rails.cache.fetch with a hash", "id={id}/lang=en", id) { plain.fetch({ lang: "en", id: 7 }) { 1 } }
line("Rails.cache.fetch with a boolean in an array", "active/{active|bool:true,false}", { "active" => "t" }) do
  plain.fetch(["active", true]) { 1 }
end
line("Rails.cache.fetch with a date in an array", "day/{day}", { "day" => "2026-02-03" }) { plain.fetch(["day", STAMP.to_date]) { 1 } }
line("Rails.cache.fetch with a time in an array", "at/{at|date:%Y-%m-%d %H:%M:%S UTC}", { "at" => "2026-02-03 04:05:06.789012" }) do
  plain.fetch(["at", STAMP]) { 1 }
end
dated = "{updated_at|date:%Y%m%d%H%M%S%6f}"

# config.active_record.cache_versioning is true in applications with the defaults of Rails 5.2 or newer.
ActiveRecord::Base.cache_versioning = true
line("Rails.cache.fetch(record), cache_versioning", "users/{id}", STAMPED) { plain.fetch(USER) { 1 } }
line("Rails.cache.fetch([record, text]), cache_versioning", "users/{id}/profile", STAMPED) { plain.fetch([USER, "profile"]) { 1 } }
line("Rails.cache.fetch(record.cache_key)", "users/{id}", STAMPED) { plain.fetch(USER.cache_key) { 1 } }
line("Rails.cache.fetch(record.cache_key_with_version)", "users/{id}-#{dated}", STAMPED) { plain.fetch(USER.cache_key_with_version) { 1 } }
line("Rails.cache.fetch(record) of a class in a module", "shop/line_items/{id}", STAMPED) { plain.fetch(ITEM) { 1 } }
ActiveRecord::Base.cache_versioning = false
line("Rails.cache.fetch(record), no cache_versioning", "users/{id}-#{dated}", STAMPED) { plain.fetch(USER) { 1 } }
ActiveRecord::Base.cache_versioning = true

Dir.mktmpdir do |views|
  Dir.mkdir("#{views}/users")
  File.write("#{views}/users/show.html.erb", "<% cache @user do %>x<% end %>")
  File.write("#{views}/users/card.html.erb", "<% cache @user, skip_digest: true do %>x<% end %>")
  File.write("#{views}/users/side.html.erb", "<% cache ['side', @user.id], skip_digest: true do %>x<% end %>")
  class UsersController < ActionController::Base
    def show; @user = User.find(7); end
    def card; @user = User.find(7); end
    def side; @user = User.find(7); end
  end
  UsersController.prepend_view_path(views)
  UsersController.perform_caching = true
  UsersController.cache_store = plain
  render = lambda do |action|
    status, = UsersController.action(action).call(Rack::MockRequest.env_for("/#{action}"))
    abort "rails: the view #{action} answers #{status}" unless status == 200
  end
  digest = ActionView::Digestor.digest(name: "users/show", format: :html,
                                      finder: ActionView::LookupContext.new([views], { formats: [:html] }))
  line("fragment, cache @user", "views/users/show:#{digest}/users/{id}", STAMPED) { render.call(:show) }
  line("fragment, cache @user, skip_digest", "views/users/{id}", STAMPED) { render.call(:card) }
  line("fragment, cache ['side', @user.id], skip_digest", "views/side/{id}", STAMPED) { render.call(:side) }
end
