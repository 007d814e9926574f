"""The admin of accounts, their roles and tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from accounts.models import DEFAULT_DAYS, MOST_DAYS, Token

# Whom a role is given to is said with the account; who guesses passwords is in the log.
for unused in (AccessAttempt, AccessFailureLog, AccessLog, User):
    if admin.site.is_registered(unused):
        admin.site.unregister(unused)


@admin.register(User)
class AccountAdmin(UserAdmin):  # type: ignore[type-arg]
    """Accounts. Nobody gives what they do not have, nor changes an account that may do more."""

    list_display = ("username", "email", "roles", "is_active", "last_login")
    list_filter = ("groups", "is_active", "is_superuser")
    # There is no other site for an account to be kept to, so every one may sign in here.
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("May", {"fields": ("is_active", "groups", "is_superuser", "user_permissions")}),
        ("Dates", {"fields": (("last_login", "date_joined"),)}),
    )
    add_fieldsets = (
        (None, {"fields": ("username", "usable_password", "password1", "password2", "groups")}),
    )
    readonly_fields = ("last_login", "date_joined")
    filter_horizontal = ("groups", "user_permissions")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        shown = super().get_readonly_fields(request, obj)
        if request.user.is_superuser:
            return shown
        return (*shown, "is_superuser", "user_permissions")

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "groups":
            kwargs["queryset"] = Group.objects.filter(pk__in=_groups_to_give(request.user))
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and _may_no_more(obj, request.user)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_no_more(obj, request.user)

    @admin.display(description="roles")
    def roles(self, account: User) -> str:
        names = [group.name for group in account.groups.all()]
        return ", ".join(["superuser"] * account.is_superuser + names)


def _may_no_more(account: User | None, than: Any) -> bool:
    if account is None or than.is_superuser:
        return True
    if account.is_superuser:
        return False
    # An account that is not active has its permissions again once it is.
    account_with_all = User(pk=account.pk, is_active=True)
    own: set[str] = than.get_all_permissions()
    return account_with_all.get_all_permissions() <= own


def _groups_to_give(giver: Any) -> list[int]:
    own = giver.get_all_permissions()
    return [
        group.pk
        for group in Group.objects.prefetch_related("permissions__content_type")
        if giver.is_superuser
        or {f"{each.content_type.app_label}.{each.codename}" for each in group.permissions.all()}
        <= own
    ]


class TokenForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a new token is to be."""

    expires_in_days = forms.IntegerField(
        min_value=1, max_value=MOST_DAYS, initial=DEFAULT_DAYS, label="Days until it expires"
    )

    class Meta:
        model = Token
        fields = ("name",)


@admin.register(Token)
class TokenAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Tokens. Everybody makes and sees their own; who may change accounts sees everybody's."""

    form = TokenForm
    list_display = ("name", "user", "token_key", "created", "expiry", "last_used_at")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    ordering = ("-created",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Token]:
        rows: QuerySet[Token] = super().get_queryset(request)
        return rows if request.user.has_perm("auth.change_user") else rows.filter(user=request.user)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("name", "expires_in_days")
        return self.list_display

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        days = timedelta(days=form.cleaned_data["expires_in_days"])
        made, token = Token.objects.create(request.user, expiry=days, name=obj.name)
        obj.pk, obj.token, obj.token_key = made.pk, token, made.token_key
        obj.user = made.user

    def response_add(self, request: HttpRequest, obj: Any, *_: Any, **__: Any) -> HttpResponse:
        """The page with the token: a message would put it into a cookie."""
        context = {
            **self.admin_site.each_context(request),
            "title": "The new token",
            "opts": self.opts,
            "token": obj,
        }
        return TemplateResponse(request, "admin/accounts/token/made.html", context)
